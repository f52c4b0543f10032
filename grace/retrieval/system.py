"""A trained system to use from Python: `grace.open` returns a `System`.

Only `System.run` writes a file. Torch is imported when a system is opened, not with this module.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from grace.data.tables import DatasetTables
from grace.retrieval.folders import BASELINE
from grace.retrieval.found import Found
from grace.retrieval.queries import check_texts, check_top, settings_over
from grace.retrieval.runs import write_run
from grace.system.errors import GraceError
from grace.workflow.config import Retrieve

if TYPE_CHECKING:
    from PIL.Image import Image

    from grace.retrieval.nearest import NearestSearcher
    from grace.retrieval.searcher import Searcher

COLUMNS = ["query", "rank", "image_id", "score", "probability", "file", "proven"]


class System:
    """A trained system and the images that it searches. Open one with `grace.open`.

    Every method that searches or scores takes settings by name: any key of the section `retrieve` of the configuration, such as
    `search="exact"` or `beams=20`. Other keys have the values of the system's own run. `top` takes the place of `depth`,
    and `device` is set when the system is opened.

    Attributes:
        folder: the system's folder (absolute path).
        scheme: the identifier scheme, such as "atomic"; "baseline" for the dual encoder.
        seed: the seed that it was trained with.
        images: the images that it searches, a table of image_id, split ("train", "val" or "test") and file (path as text).
        captions: all captions of the data set, a table of caption_id, image_id, split and text.
        images_in_all: number of images of the data set.

    Examples:
        >>> import grace
        >>> system = grace.open("results/scenes/atomic/seed0")
        >>> system.scheme, system.seed
        ('atomic', 0)
        >>> list(system.images.columns)
        ['image_id', 'split', 'file']
    """

    def __init__(
        self, folder: Path, tables: DatasetTables, searcher: Searcher | NearestSearcher, settings: Retrieve
    ) -> None:
        """`settings`: those of the system's run. Called by `grace.open`."""
        self.folder, self.scheme, self.seed = folder, searcher.scheme, searcher.seed
        self.captions, self.images_in_all = tables.captions, len(tables.images)
        self._searcher, self._settings = searcher, settings
        own = pd.DataFrame({"image_id": searcher.image_ids}).merge(tables.images, on="image_id", how="left")
        self.images = own[["image_id", "split"]].assign(file=[str(tables.image_path(file)) for file in own["file"]])
        self._files = dict(zip(self.images["image_id"], self.images["file"], strict=True))

    def __repr__(self) -> str:
        return f"<grace.System {self.scheme}, seed {self.seed}: {len(self.images)} images>"

    def search(self, queries: str | Sequence[str], top: int = 10, **settings: Any) -> pd.DataFrame:
        """Search for images by texts.

        Args:
            queries: one text or several, in plain words.
            top: images per query; all images where there are fewer.
            settings: see `System`.

        Returns:
            A table with one row per query and image, queries in the order given, best image first:

            - query (str): the text as given
            - rank (int): from 1
            - image_id (str)
            - score (float): the score that images are ranked by. For an identifier scheme, the log-likelihood, in nats, of the
              image's identifier given the text; `merge` says how several identifiers of an image are combined. For the
              baseline, the cosine. Tied images have the same score.
            - probability (float): exp(score), the model's own, uncalibrated probability. It is normalised over all trained classes
              for atomic, and otherwise as `normalisation` says: over all complete token sequences (full), the identifiers that are
              searched (children), or all sequences of the levels' tokens (level). So the probabilities of all images add up
              to 1 only if every class or identifier belongs to one image searched, and to less if the model assigns some to
              other sequences. NaN for the baseline: a cosine is not a probability.
            - file (str): path of the image
            - proven (bool): whether this image and those above it are proven to be the best of all images searched, in this
              order. False means not proven; `search="exact"` proves all except ties. None for the baseline, which gives no
              certificate.

        Raises:
            GraceError: a query is empty, is not UTF-8 or is too long for the model; a setting is unknown; top is below 1.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/atomic/seed0")
            >>> found = system.search(["a red circle", "a star"], top=2)
            >>> found[["query", "rank"]].values.tolist()
            [['a red circle', 1], ['a red circle', 2], ['a star', 1], ['a star', 2]]
            >>> bool((found["score"] <= 0).all())
            True
        """
        texts = [queries] if isinstance(queries, str) else list(queries)
        found = self.ask({str(place): text for place, text in enumerate(texts)}, top, **settings)
        rows = []
        for text, (query_id, ranking) in zip(texts, found.answers.items(), strict=True):
            proven = None if found.certified is None else found.certified[query_id]
            for rank, (image, score) in enumerate(ranking, start=1):
                probability = math.exp(score) if self._searcher.log_likelihoods else math.nan
                certain = None if proven is None else rank <= proven
                rows.append((text, rank, image, score, probability, self._files[image], certain))
        return pd.DataFrame(rows, columns=COLUMNS)

    def ask(self, queries: Mapping[str, str], top: int = 10, **settings: Any) -> Found:
        """Search for images by texts with ids; arguments and errors as for `search`, but `queries` maps ids to texts.

        Returns:
            answers, a list of (image_id, score) by query id; certified, how many of the first answers are proven, by query
            id (None for the baseline); counts over all queries (None for the baseline).

        Examples:
            >>> import grace
            >>> found = grace.open("results/scenes/atomic/seed0").ask({"q1": "a red circle"}, top=3)
            >>> [len(images) for images in found.answers.values()], list(found.certified)
            ([3], ['q1'])
        """
        if not len(queries):
            raise GraceError("search: there is no query; give at least one text")
        texts, given = check_texts(list(queries.values())), self.settings(**settings)
        # As many beams as in the run, whose depth may have required more than `beams` (see `generative_search`).
        enough = {"depth": min(check_top(top), len(self.images)), "beams": max(given.beams, given.depth)}
        return self._searcher.answers(texts, list(queries), given.model_copy(update=enough))

    def run(self, queries: Mapping[str, str], path: Path | str, top: int = 10, **settings: Any) -> None:
        """Search for images by texts with ids and write the answers as a TREC run (`query_id Q0 image_id rank score tag`).

        Args:
            queries: texts by query id.
            path: the file to write; an existing file is replaced.
            top: images per query.
            settings: see `System`.

        Raises:
            GraceError: as for `search`, and for a query id that is empty or contains white space.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/atomic/seed0")
            >>> system.run({"q1": "a red circle"}, "mine.trec", top=2)
            >>> [line.split()[:2] for line in open("mine.trec")]
            [['q1', 'Q0'], ['q1', 'Q0']]
        """
        write_run(path, self.ask(queries, top, **settings).answers, tag=self.scheme)

    def score(self, query: str, image_id: str, **settings: Any) -> float:
        """The score of one image for one text, as in the table of `search`, whatever its rank would be.

        It is computed without a search, so the last digits may differ. Nats for an identifier scheme, a cosine for the baseline.

        Raises:
            GraceError: as for `search`, and for an image that is not among those searched.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/atomic/seed0")
            >>> best = system.search("a red circle", top=1).iloc[0]
            >>> f"{abs(system.score('a red circle', best['image_id']) - best['score']):.3f}"
            '0.000'
        """
        text = check_texts([query])[0]
        self._check_image(image_id)
        return self._searcher.score(text, image_id, self.settings(**settings))

    def identifiers(self, image_id: str) -> pd.DataFrame:
        """The identifiers of an image: a table of text (str) and tokens (list of int, without the end token).

        Raises:
            GraceError: the image is not among those searched, or the system is the baseline, which has no identifiers.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/atomic/seed0")
            >>> system.identifiers(system.images["image_id"][0])["tokens"].tolist()
            [[0]]
        """
        table = self._identified().assigned.of_split("test")
        self._check_image(image_id)
        own = table[table["image_id"] == image_id]
        tokens = [list(map(int, one)) for one in own["tokens"]]
        return pd.DataFrame({"text": own["text"].tolist(), "tokens": tokens})

    def below(self, prefix: str | Sequence[int] = ()) -> pd.DataFrame:
        """The images whose identifiers begin with `prefix`.

        Args:
            prefix: the first part of an identifier's text, such as `<s0_3>` (atomic: a class number), or token ids. A text must end
                where a token ends. An empty prefix returns every image.

        Returns:
            A table of image_id, text and tokens of the identifier, and file; one row per image and identifier.

        Raises:
            GraceError: no identifier begins with the prefix, or the system is the baseline, which has no identifiers.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/structured/seed0")
            >>> image = system.images["image_id"][0]
            >>> first = system.identifiers(image)["tokens"][0][0]
            >>> image in system.below([first])["image_id"].tolist()
            True
        """
        from grace.identifiers.tree.show import leaves_below, node_of, prefix_tokens, token_texts

        searcher = self._identified()
        tree, assigned, words = searcher.tree, searcher.assigned, searcher.words
        tokens = prefix_tokens(prefix, assigned, words) if isinstance(prefix, str) else [int(token) for token in prefix]
        leaves = leaves_below(tree, [node_of(tree, tokens, prefix, assigned, words)])[0]
        rows = []
        for leaf, path in zip(leaves, tree.identifiers_at(leaves), strict=True):
            text = token_texts(path, assigned, words)
            rows += [(image, text, path, self._files[image]) for image in tree.images_at_leaf(leaf)]
        return pd.DataFrame(rows, columns=["image_id", "text", "tokens", "file"])

    def draw(self, found: pd.DataFrame) -> Image:
        """One picture (PIL, RGB) of a table from `search`: every query with its images in order, rank and score below each.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/atomic/seed0")
            >>> system.draw(system.search("a red circle", top=3)).size
            (632, 268)
        """
        from grace.retrieval.contact_sheet import Tile, contact_sheet

        rows = []
        for _, own in found.groupby((found["rank"] == 1).cumsum()):
            tiles = [Tile(Path(file), score) for file, score in zip(own["file"], own["score"], strict=True)]
            rows.append((own["query"].iloc[0], tiles))
        return contact_sheet(rows)

    def settings(self, **settings: Any) -> Retrieve:
        """The settings that a search would use: those of the system's run, overridden by `settings`.

        Raises:
            GraceError: a setting is unknown or out of bounds, is `depth` or `device`, or does not apply to the baseline.

        Examples:
            >>> import grace
            >>> system = grace.open("results/scenes/structured/seed0")
            >>> system.settings().search, system.settings(search="exact").search
            ('beam', 'exact')
        """
        return settings_over(self._settings, settings, baseline=self.scheme == BASELINE)

    def _identified(self) -> Searcher:
        if self.scheme == BASELINE:
            raise GraceError(
                f"{self.folder} is the dual encoder, which has no identifiers; open a system with a scheme"
            )
        return self._searcher  # type: ignore[return-value]

    def _check_image(self, image_id: str) -> None:
        if image_id not in self._files:
            close = difflib.get_close_matches(str(image_id), self._files, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "; System.images lists them"
            raise GraceError(
                f"image {image_id!r} is not among the {len(self._files)} images that {self.folder} searches{hint}"
            )
