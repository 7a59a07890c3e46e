"""Several replicas behind one router, disaggregated prefill and decode, tiers for K/V."""
