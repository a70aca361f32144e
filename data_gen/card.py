"""The dataset card, README.md, whose header tells `datasets.load_dataset(OUT, "biographies")` the files."""

from data_gen.manifest import Manifest

CONFIGS = ("biographies", "people", "questions")

_CARD = """\
---
configs:
{configs}
---

# Synthetic biographies

{people:,} people who do not exist, {bios} biographies each, made by `scale gen-bios`
(generator {generator_version}, seed {seed}, locale {locale}).

| config | a row is | columns |
| --- | --- | --- |
| `biographies` | one biography: six sentences, one per attribute | `person_id`, `bio_index`, `text`, then the spans |
| `people` | one person | `person_id`, the parts of the name, `full_name`, `gender`, the six attributes |
| `questions` | one question about one attribute of one person | `person_id`, `attribute`, `prompt`, `answer` |

`text[<attribute>_start:<attribute>_end]` is the value of that attribute, counted in characters. `prompt` ends without a
space and `answer` begins with one. Rows are sorted by `person_id`, with {people_per_row_group:,} people
per row group, so a range of people is cheap to read.

`datasets.load_dataset("<this folder>", "biographies", split="train")` opens a config.

{characters:,} characters of biographies; {bits} bits of knowledge per person. {pools} `manifest.json` has the details.
"""


def dataset_card(manifest: Manifest) -> str:
    """The text of README.md: a YAML header with the three configs, then their description."""
    configs = "\n".join(
        f"- config_name: {config}\n"
        + ("  default: true\n" if config == CONFIGS[0] else "")
        + f"  data_files:\n  - split: train\n    path: {config}.parquet"
        for config in CONFIGS
    )
    pools = "Names and values come from frozen pools."
    if manifest.pools.source == "live":
        pools = (
            f"Names, cities and companies were drawn from faker {manifest.pools.faker_version}. {manifest.pools.note}"
        )
    return _CARD.format(
        configs=configs,
        people=manifest.people,
        bios=manifest.bios,
        generator_version=manifest.generator_version,
        seed=manifest.seed,
        locale=manifest.locale,
        people_per_row_group=manifest.people_per_row_group,
        characters=manifest.characters,
        bits=manifest.bits_per_person["total"],
        pools=pools.strip(),
    )
