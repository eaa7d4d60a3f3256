"""What a network costs: FLOPs counted, energy modelled or measured, per segment and per exit head."""
