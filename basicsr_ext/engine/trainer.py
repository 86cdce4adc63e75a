"""Training: parts built once, then a short loop; :meth:`Trainer.train_step` is where numbers change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..archs.weights import load_weights
from ..config import Options
from ..data.loader import DevicePrefetcher, build_train_loader
from ..data.sampling import ProgressiveBatchSampler, Stage
from ..models import MODELS
from ..models.base_model import BaseModel
from .build import Parts
from .checkpoint import Checkpoint, Checkpointer, random_state, restore_random_state, seed_random_generators
from .distributed import World
from .ema import WeightAverage
from .experiment import changed_options, run_folder
from .failures import explained
from .logger import LOG, RunLogger
from .precision import RESTORMER_CLIP, Stepper, Verdict, build_optimizer
from .progress import Bar, Speedometer, duration
from .rehearsal import rehearse
from .schedule import learning_rate, stage_of
from .signals import SignalListener, StoppedError
from .validator import Evaluation, Validator

Best = dict[str, dict[str, dict[str, float]]]
"""Best scores: data set → metric → ``{"value": …, "iteration": …}``."""


MAX_SKIPPED = 100
"""Steps in a row that ``train.nan_policy: skip`` drops before it gives up."""


class NonFiniteError(ArithmeticError):
    """A loss or gradient was not finite and ``train.nan_policy`` is ``stop``, or too many were in a row."""


@dataclass(frozen=True)
class UnsettledStep:
    """A step whose verdict has not been read yet, and what is needed to go back before it."""

    iteration: int
    verdict: Verdict
    batches: list[dict[str, Any]]
    random_state: dict[str, Any]


@dataclass
class Summary:
    """What a run ended with."""

    iteration: int
    losses: dict[str, float]
    best: Best
    folder: Path
    bicubic: dict[str, dict[str, float]] = field(default_factory=dict)


class Trainer:
    """Trains one network as an option file says.

    Args:
        options: the run's options.
        parts: network and data sets, see :func:`~basicsr_ext.engine.build.build_parts`.
        world: this process among the ranks.
        checkpoint: where to continue from; ``None``: from the beginning.

    Raises:
        OptionError: the network cannot take a stage's patch.
    """

    def __init__(self, options: Options, parts: Parts, world: World, checkpoint: Checkpoint | None) -> None:
        train = options.train
        assert train is not None, "the loader requires a train section"
        self.options, self.train_options, self.world = options, train, world
        self.stages = parts.stages
        if checkpoint is not None and len(checkpoint.state["random"]) != world.size:
            former = checkpoint.state["global_batches"]
            self.stages = keep_global_batch(parts.stages, former, world.size * train.grad_accum)
        self.folder = run_folder(options)
        self.iteration = checkpoint.iteration if checkpoint is not None else 0
        self.best: Best = {}
        self.losses: dict[str, float] = {}
        self._bicubic: dict[str, dict[str, float]] = {}

        network = parts.network.to(world.device)
        if train.channels_last:
            network = network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.model: BaseModel = MODELS.find(options.model_type)(network, train, options.manual_seed)
        rehearse(options, self.model, parts.train_set, self.stages, world.device)
        self.forward = self._wrap(network)
        self.average = WeightAverage(network, train.ema_decay) if train.ema_decay > 0 else None
        clip = train.grad_clip_norm or (RESTORMER_CLIP if train.use_grad_clip else None)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optim = train.optim_g
        optimizer = build_optimizer(optim.type, trainable, world.device, lr=optim.lr, **optim.kwargs)
        self.stepper = Stepper(optimizer, train.amp, world.device, clip)
        self.learning_rate = learning_rate(train.scheduler, optim.lr, train.warmup_iter)

        self.validator = Validator(
            options.val, parts.eval_sets, options.scale, world, self.folder / "visualization"
        )
        self.checkpointer = Checkpointer(self.folder, options.logger.keep_checkpoints)
        self.speed = Speedometer(self.stages, train.grad_accum)
        self._prefetcher = self._load_batches(parts.train_set)
        self._batches = iter(self._prefetcher)
        seed_random_generators(options.manual_seed + world.rank)
        self._unsettled: UnsettledStep | None = None
        self._skipped_in_a_row = 0
        self._replaced_samples = 0
        if checkpoint is not None:
            self._restore(checkpoint)

    def train(self) -> Summary:
        """Run the remaining iterations and return what the run ended with.

        Raises:
            NonFiniteError: see ``train.nan_policy``.
            StoppedError: a signal asked for it; a checkpoint of the finished iterations has been written.
        """
        total = self.train_options.total_iter
        if self.world.is_main:
            self.checkpointer.remove_leftovers()
        self.log = RunLogger(self.options, self.folder, self.world.is_main, self.iteration)
        self.bar = Bar(total, self.iteration, self.world.is_main)
        signals = SignalListener(self.world)
        with ExitStack() as stack:
            stack.callback(self.log.close)
            stack.callback(self._batches.close)
            stack.enter_context(self.bar)
            stack.callback(self.checkpointer.finish)
            stack.enter_context(signals.listening())
            while self.iteration < total:
                with explained(f"iteration {self.iteration + 1}"):
                    self.train_step()
                self.bar.update(self.iteration)
                if self._due(self.options.logger.print_freq):
                    self._report()
                if self._due(self.options.val.val_freq):
                    self.validate()
                asked = signals.poll()
                if asked.stop or asked.save or self._due(self.options.logger.save_checkpoint_freq):
                    self.save()
                if asked.stop:
                    raise StoppedError(f"stopped by a signal after iteration {self.iteration} of {total}")
            self._settle()
            if self.world.is_main:
                self.checkpointer.save_networks("latest", self._network_files())
        return Summary(self.iteration, self.losses, self.best, self.folder, self._bicubic)

    def train_step(self) -> None:
        """Make iteration ``self.iteration + 1``: one optimizer step over all micro-batches."""
        started, waited = time.perf_counter(), self._prefetcher.wait_seconds
        iteration = self.iteration + 1
        for group in self.stepper.optimizer.param_groups:
            group["lr"] = self.learning_rate(iteration)
        micro_batches = self.train_options.grad_accum
        before = random_state(self.world.device)
        totals: dict[str, Tensor] = {}
        batches: list[dict[str, Any]] = []
        for micro in range(micro_batches):
            batch = self._next_batch()
            batches.append(batch)
            with self._gradient_sync(last=micro == micro_batches - 1):
                with self.stepper.autocast():
                    losses = self.model.training_step(self.forward, batch)
                    loss = torch.stack(list(losses.values())).sum() / micro_batches
                self.stepper.backward(loss)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0) + value.detach() / micro_batches
        self._settle()
        norm, verdict = self.stepper.step()
        self._unsettled = UnsettledStep(iteration, verdict, batches, before)
        self._last_losses, self._last_norm = totals, norm
        self.iteration = iteration
        now = time.perf_counter()
        self.speed.add(iteration, now - started, self._prefetcher.wait_seconds - waited)

    def validate(self) -> dict[str, Evaluation]:
        """Evaluate the averaged weights where there are any, and keep the best scores."""
        self._settle()
        network = self.average.network if self.average is not None else self.model.network
        results = self.validator.run(network, str(self.iteration))
        improved = False
        for number, (name, result) in enumerate(results.items()):
            improved |= self._keep_best(name, result) and number == 0
            self._bicubic[name] = result.bicubic
            self._log_evaluation(name, result)
        if improved and self.world.is_main:
            self.checkpointer.save_networks("best", self._network_files())
        return results

    def save(self) -> None:
        """Write a checkpoint of the finished iterations.

        Raises:
            NonFiniteError: see ``train.nan_policy``.
            OSError: an earlier checkpoint could not be written.
        """
        self._settle()
        self._save_as_of(self.iteration, random_state(self.world.device))

    def _save_as_of(self, iteration: int, own_random_state: dict[str, Any]) -> None:
        gathered = self.world.gather((own_random_state, self._replaced_samples))
        random_states, replaced = map(list, zip(*gathered, strict=True))
        if self.world.is_main:
            state = {
                "optimizers": [self.stepper.optimizer.state_dict()],
                "scaler": self.stepper.scaler.state_dict(),
                "random": random_states,
                "best": self.best,
                "bicubic": self._bicubic,
                "replaced_samples": sum(replaced),
                "global_batches": self._global_batches(),
                "options": self.options.model_dump_json(),
            }
            self.checkpointer.save(iteration, self._network_files(), state)

    def _global_batches(self) -> list[int]:
        """Return the samples of one iteration over all ranks and micro-batches, stage by stage."""
        share = self.world.size * self.train_options.grad_accum
        return [stage.batch_size * share for stage in self.stages]

    def _wrap(self, network: nn.Module) -> nn.Module:
        """Return the network as the training step calls it: averaged over ranks, compiled."""
        forward = self.world.parallel(network, self.options.find_unused_parameters)
        mode = self.train_options.compile
        if mode:
            # Each stage has fixed shapes: a specialised kernel each beats one for all sizes.
            config = torch._dynamo.config
            config.recompile_limit = max(config.recompile_limit, 8 + len(self.stages))
            mode = mode if isinstance(mode, str) else None
            forward = torch.compile(forward, mode=mode, dynamic=False)
        return forward  # pyright: ignore[reportReturnType]

    def _load_batches(self, dataset: Any) -> DevicePrefetcher:
        option = self.options.datasets.train
        assert option is not None, "the loader requires a training set"
        sampler = ProgressiveBatchSampler(
            self.stages,
            len(dataset),
            self.options.manual_seed,
            rank=self.world.rank,
            world_size=self.world.size,
            grad_accum=self.train_options.grad_accum,
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
        return DevicePrefetcher(loader, self.world.device)

    def _next_batch(self) -> dict[str, Any]:
        batch = next(self._batches)
        self._replaced_samples += sum(map(bool, batch.get("replaced", ())))
        if self.train_options.channels_last:
            for name in ("lq", "gt"):
                batch[name] = batch[name].contiguous(memory_format=torch.channels_last)
        return batch

    def _gradient_sync(self, last: bool) -> Any:
        """Return the context of a micro-batch: ranks exchange gradients only in the last one."""
        if last or self.world.size == 1:
            return nullcontext()
        return self.world_network.no_sync()

    @property
    def world_network(self) -> Any:
        """The distributed wrapper, below the compiled one where there is one."""
        return getattr(self.forward, "_orig_mod", self.forward)

    def _due(self, frequency: int | None) -> bool:
        """Say whether something done every ``frequency`` iterations is due; the last iteration counts."""
        if frequency is None:
            return False
        return self.iteration % frequency == 0 or self.iteration == self.train_options.total_iter

    def _report(self) -> None:
        self._settle()
        self.checkpointer.raise_failure()
        names = list(self._last_losses)
        replaced = torch.tensor(self._replaced_samples * self.world.size, device=self.world.device)
        values = torch.stack([*self._last_losses.values(), self._last_norm, replaced]).double()
        *losses, norm, replaced_everywhere = self.world.mean(values).tolist()
        self.losses = dict(zip(names, losses, strict=True))
        rate, waiting = self.speed.report()
        number = stage_of(self.iteration, [stage.iters for stage in self.stages])
        stage = self.stages[number]
        lr = self.stepper.optimizer.param_groups[0]["lr"]
        eta = duration(self.speed.remaining(self.iteration))
        self.log.scalars(
            self.iteration,
            {
                **self.losses,
                "lr": lr,
                "grad_norm": norm,
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
            lr,
            rate,
            100 * waiting,
            eta,
        )
        if replaced_everywhere:
            LOG.warning("%d unreadable sample(s) have been replaced so far", round(replaced_everywhere))
        self.bar.update(self.iteration, f"{loss_text}  ETA {eta}")

    def _settle(self) -> None:
        """Finish the step before: average its weights, or act on a gradient that was not finite.

        Read one step late, the verdict costs no waiting. Until then the weights stay as the step left
        them: a non-finite gradient changes nothing, so the state before the step is still there.
        """
        step, self._unsettled = self._unsettled, None
        if step is None:
            return
        if step.verdict.finite():
            self._skipped_in_a_row = 0
            if self.average is not None:
                self.average.update()
            return
        self._skipped_in_a_row += 1
        message = f"the loss or gradient of iteration {step.iteration} is not finite"
        # Loss scaling in fp16 finds its factor by such steps.
        skips = self.train_options.nan_policy == "skip" or self.stepper.scaler.is_enabled()
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
        for metric, value in result.scores.items():
            before = best.get(metric, {}).get("value")
            improved.append(self.validator.metrics[metric].improves(value, before))
            if improved[-1]:
                best[metric] = {"value": value, "iteration": self.iteration}
        return bool(improved) and improved[0]

    def _log_evaluation(self, name: str, result: Evaluation) -> None:
        self.log.scalars(
            self.iteration,
            {**result.scores, **{f"bicubic_{metric}": value for metric, value in result.bicubic.items()}},
            prefix=f"val/{name}",
        )
        self.log.images(self.iteration, result.images, prefix=f"val/{name}")
        for metric, value in result.scores.items():
            best = self.best[name][metric]
            bicubic = f" | bicubic {result.bicubic[metric]:.4f}" if metric in result.bicubic else ""
            LOG.info(
                "%s %s: %.4f%s | best %.4f at %d",
                name,
                metric,
                value,
                bicubic,
                best["value"],
                best["iteration"],
            )

    def _network_files(self) -> dict[str, dict[str, Any]]:
        content = {"params": self.model.network.state_dict()}
        if self.average is not None:
            content["params_ema"] = self.average.network.state_dict()
        return {"net_g": content}

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Take over everything :meth:`save` wrote."""
        content, state = checkpoint.networks["net_g"], checkpoint.state
        load_weights(self.model.network, content, param_key="params")
        if self.average is not None:
            load_weights(
                self.average.network, content, param_key="params_ema" if "params_ema" in content else "params"
            )
        self.stepper.optimizer.load_state_dict(state["optimizers"][0])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.best, self._bicubic = state["best"], state["bicubic"]
        self._replaced_samples = state["replaced_samples"] if self.world.is_main else 0
        if len(state["random"]) == self.world.size:
            restore_random_state(state["random"][self.world.rank], self.world.device)
        else:
            LOG.warning(
                "The checkpoint was written by %d processes, now there are %d. Samples per iteration: %s, "
                "before: %s. Dropout draws other numbers than in an uninterrupted run.",
                len(state["random"]),
                self.world.size,
                self._global_batches(),
                state["global_batches"],
            )
        for line in changed_options(state["options"], self.options):
            LOG.warning("Option changed since the checkpoint: %s", line)


def keep_global_batch(stages: Sequence[Stage], former: Sequence[int], share: int) -> tuple[Stage, ...]:
    """Return the stages with as many samples an iteration as another number of ranks has trained with.

    Args:
        stages: as the option file asks for.
        former: samples of one iteration, stage by stage.
        share: ranks times micro-batches. A stage whose former samples it does not divide stays as it is.
    """
    if len(former) != len(stages):
        return tuple(stages)
    return tuple(
        stage if samples % share else replace(stage, batch_size=samples // share)
        for stage, samples in zip(stages, former, strict=True)
    )
