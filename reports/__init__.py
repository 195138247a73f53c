"""Records of benchmark runs to one self-contained HTML file. Reads `bench.records` and never imports torch."""
