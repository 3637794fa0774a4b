"""Fine-tuning: what it is given, checked before torch is imported."""
