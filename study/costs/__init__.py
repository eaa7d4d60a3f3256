"""What each part of a network costs: counted, modelled on a device, or measured."""
