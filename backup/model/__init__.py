"""Values that everything else speaks of: sets, manifests, the schedule. No I/O."""
