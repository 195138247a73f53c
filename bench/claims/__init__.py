"""The paper's claims, pre-registered: experiments, verdicts, their driver and their document."""
