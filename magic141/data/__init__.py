"""Training and evaluation data: the procedural lab world, whose truth is known exactly."""
