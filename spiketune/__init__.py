"""spiketune: convert pretrained networks into spiking ones, fine-tune them, compare budgets."""
