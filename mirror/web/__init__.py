"""HTTP in, repositories out: this layer translates and decides nothing."""
