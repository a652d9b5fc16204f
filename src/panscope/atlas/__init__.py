"""The Atlas: all that is known about the features of a suite, readable without torch."""
