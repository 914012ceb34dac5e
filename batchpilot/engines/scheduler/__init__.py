"""The one scheduler: who runs in the next step, with how many tokens, and what the step changed. Compiled."""
