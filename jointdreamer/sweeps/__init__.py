"""Many runs from one file: prompts x methods x seeds, several at a time, measured and resumable."""
