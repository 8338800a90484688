"""Reinforcement learning as a way to search: agents of stable-baselines3 over the environments of `autodraft.envs`."""
