"""`reges finetune`: pseudo-queries, LLM_QR, hard negatives, LLM_G, and whole runs from a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from reges_index.cli import finetune_fusion
from reges_index.cli import finetune_parts as parts
from reges_index.cli.finetune_parts import (
    load_base,
    load_model,
    no_overlap,
    print_counts,
    print_training,
    progress_bars,
    read_all_items,
    read_all_turns,
    training_settings,
)
from reges_index.cli.output import console, print_json
from reges_index.cli.parts import AsJson, DomainNoun, Encoder, Model
from reges_index.dialogue.wording import Domain
from reges_index.errors import ConfigError

__all__ = ["finetune_app"]

finetune_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Train both experts. Each step can be killed and run again; `run` does all of them from a recipe.",
)
finetune_app.command("fusion")(finetune_fusion.fusion)
finetune_app.command("encoder")(finetune_fusion.encoder)


@finetune_app.command("pseudo-queries")
def pseudo_queries(
    conversations: parts.Conversations,
    catalog: parts.Catalogs,
    teacher: parts.Teacher,
    out: parts.Out,
    concurrency: parts.Concurrency = 4,
    max_retries: parts.MaxRetries = 5,
    timeout: parts.Timeout = 120.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer in tokens; 128 by default, 256 with --reasoning."),
    ] = None,
    price_in: parts.PriceIn = None,
    price_out: parts.PriceOut = None,
    keep_leaks: parts.KeepLeaks = False,
    reasoning: Annotated[
        bool,
        typer.Option("--reasoning", help="Write reasoning for the chain-of-thought item expert instead."),
    ] = False,
    teacher_rankings: parts.TeacherRankings = None,
    domain: DomainNoun = "movie,movies",
    quiet: parts.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let a teacher write each turn's search query, with the true items in sight (section 2.3)."""
    from reges_index.training.pseudo_queries import (
        QUERY_TOKENS,
        REASONING_TOKENS,
        write_pseudo_queries,
        write_reasoning,
    )
    from reges_index.training.teacher import TeacherSettings, open_teacher

    longest = max_new_tokens or (REASONING_TOKENS if reasoning else QUERY_TOKENS)
    settings = TeacherSettings(
        concurrency=concurrency, max_retries=max_retries, timeout_s=timeout, max_new_tokens=longest,
        price_in=price_in, price_out=price_out,
    )  # fmt: skip
    items = read_all_items(catalog)
    turns, _ = parts.read_all_rankings(teacher_rankings, read_all_turns(conversations), items)
    write = write_reasoning if reasoning else write_pseudo_queries
    with progress_bars(quiet) as bar:
        report = write(
            turns, items, open_teacher(teacher, settings), out,
            settings=settings, domain=Domain.parse(domain), filter_leaks=not keep_leaks,
            progress=bar and bar("turns"),
        )  # fmt: skip
    parts.print_teacher(
        report,
        as_json,
        {
            "without target": report.without_target, "no target in the catalog": report.unknown_target,
            "naming a target twice, left out": report.leaked,
        },
    )  # fmt: skip


@finetune_app.command("teacher-rankings")
def teacher_rankings(
    conversations: parts.Conversations,
    catalog: parts.Catalogs,
    teacher: parts.Teacher,
    out: parts.Out,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="retrieved: rank what the catalog's encoder finds; free: name items, which are then linked.",
        ),
    ] = "retrieved",
    candidates: Annotated[int, typer.Option(min=2, help="Candidates of a turn, with --from retrieved.")] = 20,
    count: Annotated[int, typer.Option(min=1, help="Most items of a ranking.")] = 8,
    encoder: Encoder = None,
    concurrency: parts.Concurrency = 4,
    max_retries: parts.MaxRetries = 5,
    timeout: parts.Timeout = 120.0,
    price_in: parts.PriceIn = None,
    price_out: parts.PriceOut = None,
    domain: DomainNoun = "movie,movies",
    quiet: parts.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Let a teacher rank items for each dialogue; no recommendation has to be known to be right."""
    from reges_index.catalog import ItemCatalog
    from reges_index.training.rankings import RANKING_TOKENS, write_rankings
    from reges_index.training.teacher import TeacherSettings, open_teacher

    if source not in ("retrieved", "free"):
        raise ConfigError(f"--from {source} cannot be used", hint="retrieved or free")
    settings = TeacherSettings(
        concurrency=concurrency, max_retries=max_retries, timeout_s=timeout, max_new_tokens=RANKING_TOKENS,
        price_in=price_in, price_out=price_out,
    )  # fmt: skip
    turns = read_all_turns(conversations)
    items = ItemCatalog.from_items(
        read_all_items(catalog).values(), embed_model=encoder, show_progress=not quiet
    )
    with progress_bars(quiet) as bar:
        report = write_rankings(
            turns, items, open_teacher(teacher, settings), out,
            source="free" if source == "free" else "retrieved",
            candidates=candidates, count=count, settings=settings, domain=Domain.parse(domain),
            progress=bar and bar("turns"),
        )  # fmt: skip
    parts.print_teacher(report, as_json, {"nothing found to rank": report.without_candidates})


@finetune_app.command("query-expert")
def query_expert(
    conversations: parts.Conversations,
    pseudo_queries: Annotated[
        list[Path],
        typer.Option("--pseudo-queries", help="Queries, JSONL with id and query; one or more files."),
    ],
    out: parts.OutDir,
    model: Model = None,
    settings: parts.Settings = None,
    epochs: parts.Epochs = None,
    learning_rate: parts.LearningRate = None,
    batch_size: parts.BatchSize = None,
    max_steps: parts.MaxSteps = None,
    seed: parts.Seed = None,
    domain: DomainNoun = "movie,movies",
    no_resume: parts.NoResume = False,
    as_json: AsJson = False,
) -> None:
    """Train LLM_QR: the dialogue in, the pseudo-query out (section 2.3)."""
    from reges_index.training.provenance import data_file
    from reges_index.training.pseudo_queries import read_pseudo_queries
    from reges_index.training.query_expert import train_query_expert

    chosen = training_settings(
        settings, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, max_steps=max_steps,
        seed=seed,
    )  # fmt: skip
    turns = read_all_turns(conversations)
    queries: dict[str, str] = {}
    data = [data_file(path, len(read_all_turns([path]))) for path in conversations]
    for path in pseudo_queries:
        own = read_pseudo_queries(path, turns=turns)
        no_overlap(path, queries, own)
        queries |= own
        data.append(data_file(path, len(own)))
    result = train_query_expert(
        turns, queries, load_base(model, chosen), chosen, out,
        domain=Domain.parse(domain), manifest_fields={"data": data}, resume=not no_resume,
    )  # fmt: skip
    print_training(result, as_json)


@finetune_app.command("negatives")
def negatives(
    conversations: parts.Conversations,
    catalog: parts.Catalogs,
    out: parts.Out,
    query_expert: Annotated[
        Path | None, typer.Option("--query-expert", help="Folder of the trained query expert.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Or queries that are there: JSONL with id and query.")
    ] = None,
    top_k: parts.TopK = 50,
    context_messages: Annotated[
        int,
        typer.Option(
            "--context-messages",
            min=0,
            help="With --queries: search with the newest messages too, as a query expert may recommend.",
        ),
    ] = 0,
    model: Model = None,
    encoder: Encoder = None,
    store: Annotated[
        Path | None,
        typer.Option("--store", help="Folder that keeps the catalog's vectors for the next time."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Turns decoded together.")] = 16,
    teacher_rankings: parts.TeacherRankings = None,
    domain: DomainNoun = "movie,movies",
    quiet: parts.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Retrieve each turn's nearest wrong items with the query expert's query (section 2.4)."""
    from reges_index.catalog import ItemCatalog
    from reges_index.query_expert import ReGeSQueryTransform
    from reges_index.training.negatives import mine_negatives
    from reges_index.training.pseudo_queries import read_pseudo_queries
    from reges_index.training.steps import content_hash

    if (query_expert is None) == (queries is None):
        raise ConfigError("give either --query-expert or --queries", hint="an adapter's folder, or a file")
    known = read_all_items(catalog)
    turns, _ = parts.read_all_rankings(teacher_rankings, read_all_turns(conversations), known)
    made_by = {"source": content_hash(query_expert or queries or Path())}
    if queries is not None:
        source: Any = read_pseudo_queries(queries, turns=turns)
    else:
        lm = load_model(model)
        lm.load_adapter("query-expert", str(query_expert), role="query-expert")
        source = ReGeSQueryTransform(lm, domain=Domain.parse(domain))
    items = ItemCatalog.from_items(
        known.values(), persist_dir=store, embed_model=encoder, show_progress=not quiet
    )
    with progress_bars(quiet) as bar:
        report = mine_negatives(
            turns, source, items, out, top_k=top_k, context_messages=context_messages, batch_size=batch_size,
            made_by=made_by, progress=bar and bar("turns"),
        )  # fmt: skip
    if as_json:
        print_json(report.to_dict())
        return
    console.print(
        f"{report.written:,} turns written to {out}, {report.already:,} were there; in "
        f"{report.turns_with_target_found:,} of them a target was among the first {top_k} hits"
    )
    print_counts(
        {
            "without target": report.without_target, "no target in the catalog": report.unknown_target,
            "without query": report.without_query, f"fewer than {top_k} negatives": report.short,
        }
    )  # fmt: skip


@finetune_app.command("item-expert")
def item_expert(
    conversations: parts.Conversations,
    catalog: parts.Catalogs,
    out: parts.OutDir,
    hard_negatives: Annotated[
        list[Path] | None, typer.Option("--hard-negatives", help="Files from `reges finetune negatives`.")
    ] = None,
    negatives: Annotated[
        str | None, typer.Option("--negatives", help="hard (the paper's), random or mixed.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--k", min=1, help="Wrong candidates beside the true one.")
    ] = None,
    reasoning: Annotated[
        list[Path] | None,
        typer.Option("--reasoning", help="Reasoning files: train the chain-of-thought variant."),
    ] = None,
    teacher_rankings: parts.TeacherRankings = None,
    model: Model = None,
    settings: parts.Settings = None,
    epochs: parts.Epochs = None,
    learning_rate: parts.LearningRate = None,
    batch_size: parts.BatchSize = None,
    max_steps: parts.MaxSteps = None,
    seed: parts.Seed = None,
    domain: DomainNoun = "movie,movies",
    no_resume: parts.NoResume = False,
    as_json: AsJson = False,
) -> None:
    """Train LLM_G: dialogue and shuffled candidates in, the true item's title out (section 2.4)."""
    from reges_index.training.item_expert import train_item_expert
    from reges_index.training.negatives_file import read_retrieved
    from reges_index.training.provenance import data_file
    from reges_index.training.pseudo_queries import read_reasoning

    chosen = training_settings(
        settings, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, max_steps=max_steps,
        seed=seed, negatives=negatives, num_candidates=candidates,
    )  # fmt: skip
    if chosen.negatives != "random" and not hard_negatives:
        raise ConfigError(
            f"--negatives {chosen.negatives} needs --hard-negatives FILE",
            hint="write it with `reges finetune negatives`, or use --negatives random",
        )
    items = read_all_items(catalog)
    turns, fitting = parts.read_all_rankings(teacher_rankings, read_all_turns(conversations), items)
    data = [data_file(path, len(read_all_turns([path]))) for path in conversations]
    data += [data_file(path, len(fitting)) for path in teacher_rankings or []]
    data += [data_file(path, len(read_all_items([path]))) for path in catalog if not path.startswith("demo:")]
    hard: dict[str, list[str]] = {}
    for path in hard_negatives or []:
        own = read_retrieved(path, turns=turns, item_ids=items, needs_targets=chosen.needs_ranks)
        no_overlap(path, hard, own)
        hard |= own
        data.append(data_file(path, len(own)))
    notes: dict[str, str] = {}
    for path in reasoning or []:
        text = read_reasoning(path, turns=turns)
        no_overlap(path, notes, text)
        notes |= text
        data.append(data_file(path, len(text)))
    result = train_item_expert(
        turns, items, hard, load_base(model, chosen), chosen, out, reasoning=notes or None, fitting=fitting,
        domain=Domain.parse(domain), manifest_fields={"data": data}, resume=not no_resume,
    )  # fmt: skip
    print_training(result, as_json)


@finetune_app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(help="YAML; see finetune/recipes.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the run; the recipe's own by default.")
    ] = None,
    quiet: parts.Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run all steps of a recipe; what is done is skipped, what was killed goes on."""
    from reges_index.training.pipeline import run_recipe

    with progress_bars(quiet) as bar:
        bars: dict[str, Callable[[int, int], None]] = {}

        def progress(step: str, done: int, total: int) -> None:
            if bar is None:
                return
            if step not in bars:
                bars[step] = bar(step)
            bars[step](done, total)

        report = run_recipe(recipe, out=out, progress=progress)
    if not parts.leads():
        return
    if as_json:
        print_json(report.to_dict())
        return
    for step in report.steps:
        outputs = ", ".join(step.outputs)
        console.print(f"{step.name}: {step.state}, {step.seconds:.1f} s  {outputs}", highlight=False)


@finetune_app.command("calibrate")
def calibrate(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines of `reges predict`, with an LLM.")],
    conversations: parts.Conversations,
    as_json: AsJson = False,
) -> None:
    """Fit prior_weight on dialogues of your own: how far the LLM is trusted beside the retriever."""
    from reges_index.evaluation.predictions import read_predictions
    from reges_index.evaluation.prior_weight import cases_of, fit_prior_weight

    cases, used = cases_of(read_predictions(predictions), read_all_turns(conversations))
    found = fit_prior_weight(cases, used)
    if as_json:
        errors = {"error_before": found.before.error, "error_after": found.after.error}
        print_json({"prior_weight": found.weight, "used_before": used, "turns": found.turns, **errors})
        return
    console.print(
        f"prior_weight: {found.weight:.2f} (the predictions were made with {used:g}); calibration error of "
        f"the first item {found.before.error:.3f} before, {found.after.error:.3f} after, cross-fitted on "
        f"{found.turns} turns",
        highlight=False,
    )


@finetune_app.command("publish")
def publish(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; may be the adapter's own.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--results", help="JSON of `reges evaluate --experiment` with this adapter; or more."),
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Keep fp32 weights instead of bf16.")] = False,
) -> None:
    """Make an adapter ready to ship: half the size, dev results in its manifest and model card."""
    from reges_index.training.publish import publish_adapter

    made = publish_adapter(adapter, out, dtype="float32" if fp32 else "bfloat16", results=results or ())
    console.print(f"{made.name} written to {out}, with the results of {len(results or ())} experiments")


@finetune_app.command("card")
def card(
    adapter: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    as_json: AsJson = False,
) -> None:
    """Print an adapter's model card, made from its manifest."""
    from reges_index.models.adapters import model_card, needs_manifest

    manifest = needs_manifest(adapter)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        typer.echo(model_card(manifest))
