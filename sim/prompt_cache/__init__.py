"""What llama-server keeps of prompts: in its slots, as checkpoints, and in host memory."""
