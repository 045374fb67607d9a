"""A small database at work: `churn.py make FILE ROWS` fills it, `churn.py change FILE UPDATES` updates random rows."""

import random
import sqlite3
import sys

WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa".split()


def row(source):
    text = " ".join(source.choice(WORDS) for _ in range(12))
    return text, source.randrange(1 << 40), source.randbytes(48)


def main():
    action, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    source = random.Random(11 if action == "make" else 12)
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode = WAL")
    if action == "make":
        base.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, note TEXT, amount INTEGER, token BLOB)")
        base.execute("CREATE INDEX orders_amount ON orders (amount)")
        base.executemany("INSERT INTO orders (note, amount, token) VALUES (?, ?, ?)", (row(source) for _ in range(count)))
    else:
        rows = base.execute("SELECT max(id) FROM orders").fetchone()[0]
        for number in range(count):
            base.execute(
                "UPDATE orders SET note = ?, amount = ?, token = ? WHERE id = ?", (*row(source), source.randrange(rows) + 1)
            )
            if number % 50 == 49:
                base.commit()
        base.executemany("INSERT INTO orders (note, amount, token) VALUES (?, ?, ?)", (row(source) for _ in range(count // 4)))
    base.commit()
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()


main()
