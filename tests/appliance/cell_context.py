"""A context without a model that follows its KV cache cell by cell, the way llama.cpp's source does it.

Each cell has a position, the token that was computed there, the sequences that hold it and the adapter under which it
was computed. What llama.cpp would do
wrong silently is an assertion here: positions that do not follow each other, a copy over something, a restore of
nothing.
"""

from plugsky.engine.scheduling.plan import Copy, Forget, Remove, Restore, Save

FAR = 1 << 30


class CellContext:
    """``cells`` cells; the last of ``sequences`` + 1 sequences is the one that state is copied through."""

    def __init__(self, cells, sequences):
        self.cells = [None] * cells
        self.scratch = sequences
        self.saved = {}
        self.head = 0

    def used(self):
        return sum(cell is not None for cell in self.cells)

    def highest(self):
        return max((n + 1 for n, cell in enumerate(self.cells) if cell), default=0)

    def tokens(self, seq):
        """The tokens of a sequence, in order of their positions, which have no gap."""
        held = sorted((cell[0], cell[1]) for cell in self.cells if cell and seq in cell[2])
        assert [position for position, _ in held] == list(range(len(held))), "positions follow each other"
        return [token for _, token in held]

    def adapters(self, seq):
        """The adapters under which the cells of a sequence were computed."""
        return {cell[3] for cell in self.cells if cell and seq in cell[2]}

    def sequences(self):
        return {seq for cell in self.cells if cell for seq in cell[2]}

    def apply(self, ops):
        for op in ops:
            match op:
                case Copy(src, dst, start, end):
                    self.seq_cp(src, dst, start, FAR if end < 0 else end)
                case Remove(seq, start, end):
                    self.seq_rm(seq, start, FAR if end < 0 else end)
                case Save(ticket, seq, start, end):
                    assert ticket not in self.saved
                    tail = sorted((c[0], c[1], c[3]) for c in self.cells if c and seq in c[2] and start <= c[0] < end)
                    assert len(tail) == end - start, "all of it is there"
                    self.saved[ticket] = tail
                    self.seq_rm(seq, start, end)
                case Restore(ticket, seq, start, end, keep):
                    tail = self.saved[ticket] if keep else self.saved.pop(ticket)
                    assert tail[0][0] == start, "it begins where what was saved begins"
                    assert len(tail) >= end - start, "all of it was saved"
                    assert self.place([(self.scratch, *cell) for cell in tail]), "there is room to put it back"
                    self.seq_cp(self.scratch, seq, start, end)
                    self.seq_rm(self.scratch, 0, FAR)
                case Forget(ticket):
                    del self.saved[ticket]

    def compute(self, chunks, adapter=""):
        """Put the tokens of all chunks into cells, under ``adapter``; False when there is no room."""
        for chunk in chunks:
            assert chunk.seq < self.scratch
            assert len(self.tokens(chunk.seq)) == chunk.start, "a chunk goes on where its sequence ends"
            assert self.adapters(chunk.seq) <= {adapter}, "no cell is read under another adapter than its own"
        return self.place(
            [
                (chunk.seq, chunk.start + n, int(token), adapter)
                for chunk in chunks
                for n, token in enumerate(chunk.tokens)
            ]
        )

    def place(self, tokens):
        head, size, found, tested = self.head, len(self.cells), [], 0
        if head > self.used() + 2 * len(tokens):
            head = 0
        while len(found) < len(tokens):
            if head + 1 > size:
                tested, head = tested + size - head, 0
                continue
            if self.cells[head] is None:
                found.append(head)
            head, tested = head + 1, tested + 1
            if tested >= size and len(found) < len(tokens):
                return False
        for index, (seq, position, token, adapter) in zip(found, tokens, strict=True):
            self.cells[index] = (position, token, {seq}, adapter)
        self.head = found[-1] + 1 if found else self.head
        return True

    def seq_cp(self, src, dst, start, end):
        for cell in self.cells:
            if cell and start <= cell[0] < end and src in cell[2]:
                cell[2].add(dst)

    def seq_rm(self, seq, start, end):
        first = None
        for index, cell in enumerate(self.cells):
            if cell and start <= cell[0] < end and seq in cell[2]:
                cell[2].remove(seq)
                if not cell[2]:
                    self.cells[index] = None
                    first = index if first is None else first
        if first is not None and first < self.head:
            self.head = first
