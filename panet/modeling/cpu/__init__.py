"""What makes the network fast on a CPU, chosen by what the CPU is."""
