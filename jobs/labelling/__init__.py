"""The label job behind its verb."""
