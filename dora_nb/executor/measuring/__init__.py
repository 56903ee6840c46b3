"""What computing, the network and a run take on real devices."""
