"""The tables of people, biographies and questions, built one chunk of people at a time.

No text is assembled in Python. A biography is a row of pieces (literals of templates, names, values): numpy computes an
index matrix and Arrow takes the pieces in that order. Their bytes are then contiguous, so every K-th offset of the
result is the boundary of a biography.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_gen.facts import ATTRIBUTES, GENDERS, People, Pools, draw_people, value_array
from data_gen.sentences import PROMPT_END, QUESTIONS, TEMPLATES_PER_ATTRIBUTE, Wording, load_wording

# One chunk of people is one row group and one unit of work: about 11 MB of text, however many the biographies.
_BIOGRAPHIES_PER_CHUNK = 25_000
_PEOPLE_STAGE, _BIOGRAPHY_STAGE = 0, 1
# A sentence is literal, name or value, literal, value or name, literal.
_PIECES_PER_SENTENCE = 5

Int32Array = NDArray[np.int32]


@dataclass(frozen=True)
class Chunk:
    """The rows of consecutive people, by file. characters: of their biographies."""

    tables: dict[str, pa.Table]
    people: int
    characters: int


@dataclass(frozen=True)
class TableBuilder:
    """Builds the tables of one chunk of people. It is read-only, so threads can share it.

    name_parts: the pools of first, middle and last names. The first `feminine` of the first names are feminine.
    values, answers: the values of all attributes, as indexed by `People.values`, without and with a leading space.
    pieces: the literals of the templates, then the values. The names of a chunk's people are appended to them.
    piece_characters: (pieces,), the length of each piece.
    """

    people: People
    bios: int
    seed: int
    people_per_chunk: int
    wording: Wording
    name_parts: tuple[pa.StringArray, pa.StringArray, pa.StringArray]
    feminine: int
    values: pa.StringArray
    answers: pa.StringArray
    pieces: pa.StringArray
    piece_characters: Int32Array

    @classmethod
    def create(
        cls, pools: Pools, people: int, bios: int, seed: int, split_answers: int | None = None
    ) -> "TableBuilder":
        """Draw the people and collect the pieces. split_answers: as in `draw_people`."""
        wording = load_wording()
        values = value_array(pools)
        pieces = pa.concat_arrays([pa.array(wording.literals, pa.string()), values])
        seeds = np.random.SeedSequence(seed, spawn_key=(_PEOPLE_STAGE,))
        return cls(
            people=draw_people(pools, people, seeds, split_answers=split_answers),
            bios=bios,
            seed=seed,
            people_per_chunk=max(1, _BIOGRAPHIES_PER_CHUNK // bios),
            wording=wording,
            name_parts=(pa.array(pools.first), pa.array(pools.middle), pa.array(pools.last)),
            feminine=len(pools.feminine),
            values=values,
            answers=pc.binary_join_element_wise("", values, " "),
            pieces=pieces,
            piece_characters=pc.utf8_length(pieces).to_numpy(),
        )

    @property
    def chunks(self) -> range:
        """The numbers of all chunks."""
        return range(-(-len(self.people) // self.people_per_chunk))

    def build(self, chunk: int) -> Chunk:
        """The tables of one chunk. They do not depend on chunks built before."""
        start = chunk * self.people_per_chunk
        stop = min(start + self.people_per_chunk, len(self.people))
        parts = [self.people.first[start:stop], self.people.middle[start:stop], self.people.last[start:stop]]
        person_id = np.arange(start, stop, dtype=np.int32)
        names = [pool.take(pa.array(index)) for pool, index in zip(self.name_parts, parts, strict=True)]
        full_names = pc.binary_join_element_wise(*names, " ")
        gender = (parts[0] >= self.feminine).astype(np.int32)
        values = self.people.values[start:stop]

        people = {
            "person_id": pa.array(person_id),
            "first_name": names[0],
            "middle_name": names[1],
            "last_name": names[2],
            "full_name": full_names,
            "gender": pa.array(GENDERS).take(pa.array(gender)),
        }
        for column, attribute in enumerate(ATTRIBUTES):
            people[attribute] = self.values.take(pa.array(np.ascontiguousarray(values[:, column])))
        biographies, characters = self._biographies(chunk, person_id, full_names, gender, values)
        tables = {
            "people": pa.table(people),
            "biographies": biographies,
            "questions": self._questions(person_id, full_names, values),
        }
        return Chunk(tables, stop - start, characters)

    def _biographies(
        self, chunk: int, person_id: Int32Array, full_names: pa.StringArray, gender: Int32Array, values: Int32Array
    ) -> tuple[pa.Table, int]:
        """The biographies of a chunk's people and their characters. There are B biographies of S = 6 sentences.

        person_id, full_names, gender: (people,). values: (people, S).
        """
        bios = self.bios
        # Both (B, S): the attribute of each sentence, and the number of its template.
        order, template = self._draw(chunk, len(person_id))
        first_value, first_name = len(self.wording.literals), len(self.pieces)
        value = np.take_along_axis(np.repeat(values + first_value, bios, axis=0), order, axis=1)
        name = (np.repeat(np.arange(len(person_id), dtype=np.int32), bios) + first_name)[:, None]
        follows = (np.arange(len(ATTRIBUTES)) > 0).astype(np.int32)[None, :]
        literal = self.wording.literal_index(template, np.repeat(gender, bios)[:, None], follows)
        name_first = self.wording.name_first[template]

        index = np.empty((*order.shape, _PIECES_PER_SENTENCE), np.int32)  # (B, S, 5)
        index[:, :, 0] = literal
        index[:, :, 1] = np.where(name_first, name, value)
        index[:, :, 2] = literal + 1
        index[:, :, 3] = np.where(name_first, value, name)
        index[:, :, 4] = literal + 2
        index = index.reshape(len(order), -1)

        piece_characters = np.concatenate([self.piece_characters, pc.utf8_length(full_names).to_numpy()])
        ends = np.cumsum(piece_characters[index], axis=1, dtype=np.int32)
        sentence_value_end = np.where(name_first, ends[:, 3::_PIECES_PER_SENTENCE], ends[:, 1::_PIECES_PER_SENTENCE])
        value_end = np.empty_like(sentence_value_end)
        np.put_along_axis(value_end, order, sentence_value_end, axis=1)
        value_start = value_end - np.repeat(self.piece_characters[values + first_value], bios, axis=0)

        columns = {
            "person_id": pa.array(np.repeat(person_id, bios)),
            "bio_index": pa.array(np.tile(np.arange(bios, dtype=np.int32), len(person_id))),
            "text": _concatenate_rows(pa.concat_arrays([self.pieces, full_names]), index),
        }
        for column, attribute in enumerate(ATTRIBUTES):
            columns[f"{attribute}_start"] = pa.array(np.ascontiguousarray(value_start[:, column]))
            columns[f"{attribute}_end"] = pa.array(np.ascontiguousarray(value_end[:, column]))
        return pa.table(columns), int(ends[:, -1].sum(dtype=np.int64))

    def _draw(self, chunk: int, people: int) -> tuple[Int32Array, Int32Array]:
        """The attribute and the template number of each sentence, both (people * bios, 6).

        A full chunk is drawn, so that the biographies do not depend on the number of people after them.
        """
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_BIOGRAPHY_STAGE, chunk)))
        attributes = np.arange(len(ATTRIBUTES), dtype=np.uint8)
        order = np.tile(attributes, (self.people_per_chunk * self.bios, 1))
        generator.permuted(order, axis=1, out=order)

        # A person's templates for one attribute: all 50 in random order, repeated if there are more biographies.
        lines = np.arange(TEMPLATES_PER_ATTRIBUTE, dtype=np.uint8)
        rounds = -(-self.bios // TEMPLATES_PER_ATTRIBUTE)
        line = np.tile(lines, (self.people_per_chunk * len(ATTRIBUTES) * rounds, 1))
        generator.permuted(line, axis=1, out=line)
        line = line.reshape(self.people_per_chunk, len(ATTRIBUTES), -1)[:people, :, : self.bios]
        line = line.transpose(0, 2, 1).reshape(-1, len(ATTRIBUTES))

        attribute = order[: len(line)].astype(np.int32)
        return attribute, attribute * TEMPLATES_PER_ATTRIBUTE + np.take_along_axis(line, attribute, axis=1)

    def _questions(self, person_id: Int32Array, full_names: pa.StringArray, values: Int32Array) -> pa.Table:
        """One question per attribute and person."""
        before, after = zip(*(question.split("{name}") for question in QUESTIONS.values()), strict=True)
        frames = pa.array([*before, *(end + PROMPT_END for end in after)])
        attribute = np.tile(np.arange(len(ATTRIBUTES), dtype=np.int32), len(person_id))
        name = np.repeat(np.arange(len(person_id), dtype=np.int32), len(ATTRIBUTES)) + len(frames)
        index = np.stack([attribute, name, attribute + len(ATTRIBUTES)], axis=1)
        return pa.table(
            {
                "person_id": pa.array(np.repeat(person_id, len(ATTRIBUTES))),
                "attribute": pa.array(ATTRIBUTES).take(pa.array(attribute)),
                "prompt": _concatenate_rows(pa.concat_arrays([frames, full_names]), index),
                "answer": self.answers.take(pa.array(values.reshape(-1))),
            }
        )


def _concatenate_rows(pieces: pa.StringArray, index: Int32Array) -> pa.StringArray:
    """The joined pieces of each row of `index`, (rows, pieces per row): (rows,) strings."""
    rows, width = index.shape
    taken = pieces.take(pa.array(index.reshape(-1)))
    _, offsets, data = taken.buffers()
    bounds = np.frombuffer(offsets, np.int32, count=rows * width + 1)[::width]
    return pa.StringArray.from_buffers(rows, pa.py_buffer(np.ascontiguousarray(bounds)), data)
