"""Block tables over one pool of blocks, as vLLM 0.19 manages them (`vllm/v1/core`)."""
