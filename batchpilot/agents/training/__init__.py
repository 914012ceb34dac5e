"""Training by PPO: configured, warm-started, played, validated, kept. Modules import heavy libraries themselves."""
