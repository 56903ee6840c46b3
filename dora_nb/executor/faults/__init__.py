"""What is kept against a fault, and how a run goes on after one."""
