"""The saturation model itself: its formula in three forms, the roofline, and where parameters are kept."""
