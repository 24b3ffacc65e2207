"""A look at what the model writes while it trains."""

from pathlib import Path

import torch

from edgetiny.config.train import TrainConfig
from edgetiny.errors import ConfigError
from edgetiny.generate.stream import Sampling, prompt_ids, stream
from edgetiny.model import Transformer
from edgetiny.runtimes import EagerRuntime
from edgetiny.tokenizer import checkpoint_tokenizer


class Sampler:
    """Continues `sample_prompt` with the weights as they are."""

    def __init__(self, config: TrainConfig, model: Transformer, tokenizer: Path | None) -> None:
        """Raises ConfigError without a tokenizer, or if the prompt fills the context."""
        if tokenizer is None:
            raise ConfigError(
                f"--sample-every needs a tokenizer, and neither {config.checkpoint} nor"
                f" {config.data} has one"
            )
        self._config = config
        self._tokenizer = checkpoint_tokenizer(tokenizer, model.config.vocab_size)
        self._prompt = prompt_ids(self._tokenizer, model.config, config.sample_prompt)
        longest = model.config.max_position_embeddings
        if len(self._prompt) >= longest:
            raise ConfigError(
                f"--sample-prompt has {len(self._prompt)} tokens, the model's context is {longest}"
            )
        self._runtime = EagerRuntime(
            model,
            tokenizer,
            context=min(longest, len(self._prompt) + config.sample_tokens),
            threads=torch.get_num_threads(),
        )

    def continuation(self, seed: int) -> str:
        """Return the prompt and up to `sample_tokens` new tokens; the same for the same weights."""
        sampling = Sampling(
            max_new_tokens=self._config.sample_tokens,
            temperature=self._config.sample_temperature,
            seed=seed,
        )
        new = stream(self._runtime, self._tokenizer, self._prompt, sampling)
        return self._config.sample_prompt + "".join(new)
