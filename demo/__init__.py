"""The demonstration: `demo.show` tells it, the other folders are the stack that it runs on."""
