"""What a design is: genome, backbone, rules, network, cost."""
