"""Systems to compare with: scripted (`fake`), references that calibrate scores (`reference`), ours (`lab`)."""
