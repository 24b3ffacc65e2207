"""The training loop: what happens between steps, and when it ends."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter
from edgetiny.cost import training_flops_per_token
from edgetiny.data import Shards
from edgetiny.errors import CheckFailed
from edgetiny.evaluate import ScoredDocument, Scores, bits_per_byte, documents_of_split
from edgetiny.train.interrupt import StopRequest
from edgetiny.train.log import Log
from edgetiny.train.sample import Sampler
from edgetiny.train.state import TrainerState, save
from edgetiny.train.step import StepResult, Trainer, samples_per_step, tokens_per_step
from edgetiny.train.throughput import peak_flops


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What a run reads: its start, its tokens, and the folder of its tokenizer if it has one."""

    checkpoint: Checkpoint
    shards: Shards
    tokenizer: Path | None


class Loop:
    """Steps with everything between them: log, progress, validation, samples, saves, Ctrl-C."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: Trainer,
        state: TrainerState,
        sources: Sources,
        reporter: Reporter,
    ) -> None:
        self._config = config
        self._trainer = trainer
        self._state = state
        self._saved_step = state.step
        self._sources = sources
        self._reporter = reporter
        self._documents = validation_documents(config, sources.shards, reporter)
        self._sampler: Sampler | None = None
        if config.sample_every:
            self._sampler = Sampler(config, trainer.model, sources.tokenizer)
        peak = peak_flops(config.device, trainer.precision, torch.get_num_threads())
        flops = training_flops_per_token(trainer.model.config, config.sequence_length)
        self._tok_s_at_peak = None if peak is None else peak / flops
        self._pending: StepResult | None = None
        self._note = ""

    def run(self) -> None:
        """Do the steps that are left and write the finished checkpoint.

        Raises CheckFailed when a loss is not finite, KeyboardInterrupt after Ctrl-C.
        """
        config = self._config
        if self._state.step == 0:
            # Whatever happens from here on, there is something to resume from.
            self._save(None, {})
        log = Log(config.out, step=self._state.step, tensorboard=config.tensorboard)
        with (
            log,
            StopRequest(self._reporter) as stop,
            self._reporter.task("train", config.n_steps) as task,
        ):
            task.advance(self._state.step)
            scores: Scores | None = None
            for done in range(self._state.step + 1, config.n_steps + 1):
                result = self._trainer.step(done - 1)
                self._settle(log)
                self._pending = result
                task.advance(1, self._note)
                scores = self._between_steps(log, done, is_stopping=stop.is_set)
            self._save(log, self._metrics(log, scores), is_finished=True)

    def _between_steps(self, log: Log, done: int, *, is_stopping: bool) -> Scores | None:
        """Validate, sample and save where that is due after `done` steps; stop if asked to."""
        config, scores = self._config, None
        is_last = done == config.n_steps
        if is_last or _is_due(done, config.eval_every):
            self._settle(log)
            scores = self._validate(log, done)
        if self._sampler is not None and _is_due(done, config.sample_every):
            self._settle(log)
            self._reporter.say(f"step {done}: {self._sampler.continuation(seed=done)!r}")
        is_stopping &= not is_last
        if is_stopping or (_is_due(done, config.save_every) and not is_last):
            self._settle(log)
            self._save(log, {"train_loss": log.mean_loss, "tokens": self._state.tokens})
        if is_stopping:
            self._reporter.say(f"saved step {done} in {config.out}; go on with --resume")
            raise KeyboardInterrupt
        return scores

    def _settle(self, log: Log) -> None:
        """Log the step that was last begun.

        This reads its loss, and so waits for the device: one step late, when the next is queued.
        """
        result, self._pending = self._pending, None
        if result is None:
            return
        started = time.perf_counter()
        loss, grad_norm = result.loss.item(), result.grad_norm.item()
        seconds = result.seconds + time.perf_counter() - started
        done, n_tokens = result.step + 1, tokens_per_step(self._config)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise self._diverged(done, f"the loss is {loss}, the gradient norm {grad_norm}")
        tok_s = n_tokens / seconds
        mfu = tok_s / self._tok_s_at_peak if self._tok_s_at_peak else None
        log.step(
            {
                "step": done,
                "tokens": done * n_tokens,
                "loss": loss,
                "lr": result.learning_rate,
                "grad_norm": grad_norm,
                "tok_s": tok_s,
                "mfu": mfu,
            }
        )
        share = "" if mfu is None else f", MFU {mfu:.0%}"
        self._note = f"loss {loss:.3f}, {tok_s:,.0f} tok/s{share}"
        self._state = dataclasses.replace(
            self._state,
            step=done,
            tokens=done * n_tokens,
            position=done * samples_per_step(self._config),
            seconds=self._state.seconds + seconds,
        )

    def _diverged(self, done: int, what: str) -> CheckFailed:
        return CheckFailed(
            f"step {done}: {what}; {self._config.out} keeps the state after step"
            f" {self._saved_step}. Train from it, or anew, with a lower --learning-rate"
        )

    def _validate(self, log: Log, done: int) -> Scores | None:
        if self._documents is None:
            return None
        scores = bits_per_byte(
            self._trainer.model,
            self._documents,
            context=self._config.sequence_length,
            batch_size=self._config.batch_size,
        )
        if not math.isfinite(scores.total.loss):
            raise self._diverged(done, f"the held-out loss is {scores.total.loss}")
        log.validation(done, scores.total.loss, scores.bits_per_byte)
        shown = f"{scores.total.bits_per_byte:.4f}"
        if len(scores.groups) > 1:
            each = (f"{group.group} {group.bits_per_byte:.4f}" for group in scores.groups)
            shown += f" ({', '.join(each)})"
        self._reporter.say(f"step {done}: held-out bits per byte {shown}")
        return scores

    def _metrics(self, log: Log, scores: Scores | None) -> dict[str, Any]:
        """Return what the finished folder says of the run."""
        state, train = self._state, self._sources.shards.train
        metrics: dict[str, Any] = {
            "steps": state.step,
            "train_loss": log.mean_loss,
            "tokens": state.tokens,
            "seconds": state.seconds,
        }
        if train.text_bytes is not None:
            bytes_per_token = int(train.text_bytes.sum()) / len(train.tokens)
            metrics["text_bytes"] = round(state.tokens * bytes_per_token)
        if scores is not None:
            metrics |= {"valid_loss": scores.total.loss, "bits_per_byte": scores.bits_per_byte}
        return metrics

    def _save(self, log: Log | None, metrics: dict[str, Any], *, is_finished: bool = False) -> None:
        self._state = dataclasses.replace(self._state, is_finished=is_finished)
        save(
            self._config.out,
            self._state,
            self._trainer.model,
            self._trainer.optimizer,
            parent=self._sources.checkpoint,
            tokenizer=self._sources.tokenizer,
            metrics=metrics,
            log=log,
        )
        self._saved_step = self._state.step


def validation_documents(
    config: TrainConfig, shards: Shards, reporter: Reporter
) -> list[ScoredDocument] | None:
    """Return the held-out documents to score, `eval_tokens` divided among the groups.

    Says so and returns None where nothing is held out, or its bytes of text are not known.
    """
    split = shards.valid
    if not len(split.tokens) or split.text_bytes is None:
        why = "holds no text out" if not len(split.tokens) else "does not say its bytes of text"
        reporter.say(f"no validation: {shards.path} {why}")
        return None
    held = set(split.document_group.tolist())
    per_group = max(1, config.eval_tokens // len(held))
    return list(documents_of_split(split, shards.document_start is not None, per_group))


def _is_due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
