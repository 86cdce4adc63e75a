"""Training: parts built once, then a short loop; :meth:`Trainer.train_step` is where numbers change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..config import Options
from ..data.loader import DevicePrefetcher, build_train_loader, to_device
from ..data.samples import in_words, source_sizes
from ..data.sampling import ProgressiveBatchSampler, Stage, stage_of
from .build import Parts
from .checkpoint import Checkpoint, Checkpointer, random_state, restore_random_state, seed_random_generators
from .distributed import World
from .experiment import changed_options, run_folder
from .failures import explained
from .logger import LOG, RunLogger
from .precision import Verdict
from .preflight.rehearsal import rehearse, stage_batch
from .preflight.summary import scores_in_words
from .progress import Bar, Speedometer, duration
from .resume import batch_options, resumed_stages
from .signals import SignalListener, StoppedError
from .step import TrainingStep
from .validator import BrokenOffError, Evaluation, Validator, mean_of

Best = dict[str, dict[str, dict[str, float]]]
"""Best scores: data set → metric → ``{"value": …, "iteration": …}``."""


_MEAN = "mean"
"""Name of the scores that are the mean of several sets'."""
MAX_SKIPPED = 100
"""Steps in a row that ``train.nan_policy: skip`` drops before it gives up."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient was not finite and ``train.nan_policy`` is ``stop``, or too many were in a row."""


@dataclass(frozen=True)
class PendingStep:
    """A step whose verdict has not been read yet, and what is needed to go back before it."""

    iteration: int
    verdict: Verdict
    batches: list[Any]
    random_state: dict[str, Any]


@dataclass
class Summary:
    """What a run ended with.

    ``baselines`` are scores of other results on the same samples: name (``bicubic``), data set, metric.
    """

    iteration: int
    losses: dict[str, float]
    best: Best
    folder: Path
    baselines: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


class Trainer:
    """Trains the networks of a model kind as an option file says.

    Args:
        options: the run's options.
        parts: networks and data sets, see :func:`~basicsr_ext.engine.build.build_parts`.
        world: this process among the ranks.
        checkpoint: where to continue from; ``None``: from the beginning.

    Raises:
        OptionError: the networks cannot take a stage's patch, or the loss is none.
    """

    def __init__(self, options: Options, parts: Parts, world: World, checkpoint: Checkpoint | None) -> None:
        train = options.train
        assert train is not None, "the loader requires a train section"
        self.options, self.train_options, self.world = options, train, world
        self.stages = parts.stages
        if checkpoint is not None:
            self.stages = resumed_stages(options, parts.stages, checkpoint, world.size)
        self.folder = run_folder(options)
        self.iteration = checkpoint.iteration if checkpoint is not None else 0
        self._validated = checkpoint is None or not checkpoint.state.get("validation_due", False)
        self.best: Best = {}
        self.losses: dict[str, float] = {}
        self._baselines: dict[str, dict[str, dict[str, float]]] = {}

        self.step = TrainingStep(options, parts.networks, world, len(self.stages))
        self.kind = self.step.kind
        self._notes = self.kind.reading_notes(options, parts.train_set)
        rehearse(options, self.kind, parts.train_set, self.stages, train.channels_last)
        batch = stage_batch(self.kind, parts.train_set, self.stages[0], copies=0)
        world.wait_for_all("trying one sample of each stage")
        self.step.order_buckets(to_device(batch, world.device, train.channels_last))
        self._images = source_sizes(parts.train_set)
        self.validator = Validator(
            options.val, self.kind, parts.eval_sets, world, self.folder / "visualization"
        )
        self.checkpointer = Checkpointer(self.folder, options.logger.keep_checkpoints)
        self.speed = Speedometer(self.stages)
        self._prefetcher = self._load_batches(parts.train_set)
        self._batches = iter(self._prefetcher)
        seed_random_generators(options.manual_seed + world.rank)
        self._pending: PendingStep | None = None
        self._skipped_in_a_row = 0
        self._replaced_before = 0
        if checkpoint is not None:
            self._restore(checkpoint, parts.stages)

    def train(self) -> Summary:
        """Run the remaining iterations and return what the run ended with.

        Raises:
            NonFiniteError: see ``train.nan_policy``.
            FileNotFoundError: the run's folder or its log is gone.
            StoppedError: a signal asked for it; a checkpoint of the finished iterations has been written.
                A validation that it broke off is made up for when the run is resumed.
        """
        total = self.train_options.total_iter
        if self.world.is_main:
            self.checkpointer.remove_leftovers()
        # What an attempt that never came to a checkpoint has logged at its start is not repeated.
        validated = self._validated and self.iteration > 0
        self.log = RunLogger(self.options, self.folder, self.world.is_main, self.iteration, validated)
        self.bar = Bar("training", total, self.iteration, self.world.is_main)
        signals = SignalListener(self.world)
        with ExitStack() as stack:
            # Left last: a signal during the last writes must not end the process.
            stack.enter_context(signals.listening())
            stack.callback(self.log.close)
            stack.callback(self._batches.close)
            stack.enter_context(self.bar)
            stack.callback(self.checkpointer.finish)
            if not self._validated:
                self._after_iteration(signals)
            elif self.iteration == 0 and self.options.val.at_start:
                with suppress(BrokenOffError):  # the first iteration sees to the signal
                    self.validate(signals.stop_wanted)
            while self.iteration < total:
                with explained(f"iteration {self.iteration + 1}"):
                    self.train_step()
                self.bar.update(self.iteration)
                if self._due(self.options.logger.print_freq):
                    self._report()
                self._after_iteration(signals)
            self._conclude_step()
            self.log.require_files()
            self._save_networks("latest")
        return Summary(self.iteration, self.losses, self.best, self.folder, self._baselines)

    def train_step(self) -> None:
        """Make iteration ``self.iteration + 1``: one optimizer step a phase over all micro-batches."""
        started, waited = time.perf_counter(), self._prefetcher.wait_seconds
        iteration = self.iteration + 1
        before = random_state(self.world.device)
        count = self.stages[stage_of(iteration, self.stages)].grad_accum
        micro_batches = islice(self._batches, count)
        outcome = self.step.run(iteration, micro_batches, count, before_update=self._conclude_step)
        self._pending = PendingStep(iteration, outcome.verdict, outcome.batches, before)
        self._last = outcome
        self.iteration = iteration
        now = time.perf_counter()
        self.speed.add(iteration, now - started, self._prefetcher.wait_seconds - waited)

    def _after_iteration(self, signals: SignalListener) -> None:
        """Validate and save where that is due, and do what signals ask for."""
        stopped = f"stopped by a signal after iteration {self.iteration} of {self.train_options.total_iter}"
        if self._due(self.options.val.val_freq):
            before = random_state(self.world.device)
            try:
                self.validate(signals.stop_wanted)
            except BrokenOffError:
                self._save_as_of(self.iteration, before, validation_due=True)
                raise StoppedError(f"{stopped}, before its validation was complete") from None
        asked = signals.poll()
        if asked.stop or asked.save or self._due(self.options.logger.save_checkpoint_freq):
            self.log.require_files()
            self.save()
        if asked.stop:
            raise StoppedError(stopped)

    def validate(self, stop: Callable[[], bool] = lambda: False) -> dict[str, Evaluation]:
        """Evaluate the averaged weights where there are any, and keep the best scores.

        Raises:
            BrokenOffError: ``stop`` said so before a sample; nothing has been recorded.
        """
        self._conclude_step()
        results = self.validator.run(self.step.evaluated_networks(), str(self.iteration), stop)
        deciding = self.kind.deciding(list(results))
        if len(deciding) > 1:
            results[_MEAN] = mean_of([results[name] for name in deciding])
            deciding = [_MEAN]
        improved = False
        for number, (name, result) in enumerate(results.items()):
            improved |= self._keep_best(name, result) and name in deciding
            for baseline, scores in result.baselines.items():
                self._baselines.setdefault(baseline, {})[name] = scores
            self.log.scalars(self.iteration, result.flat(), prefix=f"val/{name}")
            self.log.images(self.iteration, result.pictures, prefix=f"val/{name}")
            self.log.samples(self.iteration, number, name, result.samples, result.pictures, result.panels)
        if results:
            LOG.info("Validation after iteration %d\n%s", self.iteration, scores_in_words(results, self.best))
        if improved:
            self._save_networks("best")
        return results

    def save(self) -> None:
        """Write a checkpoint of the finished iterations.

        Raises:
            NonFiniteError: see ``train.nan_policy``.
            OSError: an earlier checkpoint could not be written.
        """
        self._conclude_step()
        self._save_as_of(self.iteration, random_state(self.world.device))

    def _save_as_of(
        self, iteration: int, own_random_state: dict[str, Any], validation_due: bool = False
    ) -> None:
        gathered = self.world.gather((own_random_state, self._replaced_samples))
        random_states, replaced = map(list, zip(*gathered, strict=True))
        networks = self.step.network_files(self._notes)
        if self.world.is_main:
            state = {
                **self.step.state(),
                "random": random_states,
                "best": self.best,
                "baselines": self._baselines,
                "replaced_samples": sum(replaced),
                "global_batches": self._global_batches(self.stages),
                "batch_options": batch_options(self.options),
                "train_images": self._images,
                "options": self.options.model_dump_json(),
                "validation_due": validation_due,
            }
            self.checkpointer.save(iteration, networks, state)

    def _save_networks(self, label: str) -> None:
        networks = self.step.network_files(self._notes)
        if self.world.is_main:
            self.checkpointer.save_networks(label, networks)

    @property
    def _replaced_samples(self) -> int:
        return self._replaced_before + self._prefetcher.replaced_samples

    def _global_batches(self, stages: Sequence[Stage]) -> list[int]:
        """Return the samples of one iteration over all ranks and micro-batches, stage by stage."""
        return [stage.samples * self.world.size for stage in stages]

    def _load_batches(self, dataset: Any) -> DevicePrefetcher:
        option = self.options.datasets.loader
        assert option is not None, "the loader requires a training set"
        sampler = ProgressiveBatchSampler(
            self.stages,
            self._images,
            self.options.manual_seed,
            rank=self.world.rank,
            world_size=self.world.size,
            shares=self.kind.shares,
            shuffle=option.use_shuffle,
            enlarge=option.dataset_enlarge_ratio,
            start_iter=self.iteration,
        )
        loader = build_train_loader(
            dataset,
            sampler,
            num_workers=option.num_worker_per_gpu,
            pin_memory=option.pin_memory and self.world.device.type == "cuda",
            prefetch_factor=option.num_prefetch_queue,
        )
        return DevicePrefetcher(loader, self.world.device, self.train_options.channels_last)

    def _due(self, frequency: int | None) -> bool:
        """Say whether something done every ``frequency`` iterations is due; the last iteration counts."""
        if frequency is None:
            return False
        return self.iteration % frequency == 0 or self.iteration == self.train_options.total_iter

    def _report(self) -> None:
        self._conclude_step()
        self.checkpointer.raise_failure()
        scalars = {**self._last.losses, **self._last.norms}
        replaced = torch.tensor(self._replaced_samples * self.world.size, device=self.world.device)
        values = torch.stack([*scalars.values(), replaced]).double()
        *means, replaced_everywhere = self.world.mean(values).tolist()
        averaged = dict(zip(scalars, means, strict=True))
        self.losses = {name: averaged[name] for name in self._last.losses}
        rate, waiting = self.speed.report()
        number = stage_of(self.iteration, self.stages)
        stage = self.stages[number]
        rates = self.step.learning_rates()
        eta = duration(self.speed.remaining(self.iteration))
        self.log.scalars(
            self.iteration,
            {
                **self.losses,
                **rates,
                **{name: averaged[name] for name in self._last.norms},
                "stage": number + 1,
                "gt_size": stage.gt_size,
                "batch_size": stage.batch_size,
                "iterations_per_second": rate,
                "data_wait": waiting,
                "replaced_samples": round(replaced_everywhere),
            },
            prefix="train",
        )
        loss_text = " ".join(f"{name} {value:.4e}" for name, value in self.losses.items())
        LOG.info(
            "iter %d/%d | stage %d/%d, patch %d, batch %d | %s | lr %.3e | %.2f it/s | data wait %.0f%% "
            "| ETA %s",
            self.iteration,
            self.train_options.total_iter,
            number + 1,
            len(self.stages),
            stage.gt_size,
            stage.batch_size,
            loss_text,
            rates["lr"],
            rate,
            100 * waiting,
            eta,
        )
        if replaced_everywhere:
            LOG.warning("%d unusable sample(s) have been replaced so far", round(replaced_everywhere))
        self.bar.update(self.iteration, f"{loss_text}  ETA {eta}")

    def _conclude_step(self) -> None:
        """Finish the step before: average its weights, or act on a gradient that was not finite.

        Read one step late, the verdict costs no waiting. Until then the weights stay as the step left
        them: a non-finite gradient changes nothing, so the state before the step is still there.
        """
        step, self._pending = self._pending, None
        if step is None:
            return
        if step.verdict.finite():
            self._skipped_in_a_row = 0
            self.step.update_averages()
            return
        self._skipped_in_a_row += 1
        message = f"the loss or gradient of iteration {step.iteration} is not finite"
        skips = self.train_options.nan_policy == "skip" or self.step.loss_scaling
        if skips and self._skipped_in_a_row <= MAX_SKIPPED:
            LOG.warning("Skipped a step: %s", message)
            return
        if skips:
            raise NonFiniteError(f"{message}, like those of {MAX_SKIPPED} iterations before; giving up")
        bad_batch = self.folder / f"bad_batch_{step.iteration}_rank{self.world.rank}.pth"
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(step.batches, bad_batch)
        self._save_as_of(step.iteration - 1, step.random_state)
        raise NonFiniteError(
            f"{message}; no weight was changed by it. The batch is in {bad_batch}, a checkpoint from before "
            "the step beside it. Lower the learning rate, clip with train.grad_clip_norm, or set "
            "train.nan_policy: skip"
        )

    def _keep_best(self, name: str, result: Evaluation) -> bool:
        """Record scores that beat the best so far; return whether the first metric did."""
        improved = []
        best = self.best.setdefault(name, {})
        measures = self.validator.metrics()
        for metric, value in result.scores.items():
            before = best.get(metric, {}).get("value")
            improved.append(measures[metric].improves(value, before))
            if improved[-1]:
                best[metric] = {"value": value, "iteration": self.iteration}
        return bool(improved) and improved[0]

    def _restore(self, checkpoint: Checkpoint, asked_stages: Sequence[Stage]) -> None:
        """Take over everything :meth:`save` wrote; the stages are those that the option file asks for."""
        state = checkpoint.state
        self.step.restore(checkpoint)
        self.best, self._baselines = state["best"], state["baselines"]
        self._replaced_before = state["replaced_samples"] if self.world.is_main else 0
        if len(state["random"]) == self.world.size:
            restore_random_state(state["random"][self.world.rank], self.world.device)
        else:
            LOG.warning(
                "The checkpoint was written by %d processes, now there are %d. Dropout draws other numbers "
                "than in an uninterrupted run.",
                len(state["random"]),
                self.world.size,
            )
        asked, kept = self._global_batches(asked_stages), self._global_batches(self.stages)
        if not asked == kept == state["global_batches"]:
            LOG.warning(
                "Samples per iteration, by stage: %s, before: %s. With %d process(es), the option file asks "
                "for %s; batch_size_total has its way with any number of them.",
                kept,
                state["global_batches"],
                self.world.size,
                asked,
            )
        images = state.get("train_images", self._images)  # checkpoints of version 0.1 do not have it
        if images != self._images:
            LOG.warning(
                "The training set has changed since the checkpoint: %s, before: %s. Images come in another "
                "order from here on.",
                in_words(self._images),
                in_words(images),
            )
        for line in changed_options(state["options"], self.options):
            LOG.warning("Option changed since the checkpoint: %s", line)
