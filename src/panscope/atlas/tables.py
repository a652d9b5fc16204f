"""The tables of the notes, version by version, and conditions that questions of labels share."""

# Of the labels of a feature by one method, all but the newest are history.
IS_CURRENT = """
    NOT EXISTS (
        SELECT 1 FROM labels AS newer WHERE newer.sae = labels.sae
        AND newer.latent = labels.latent AND newer.method = labels.method
        AND newer.id > labels.id
    )
"""
# Of all labels of a feature the newest that a person wrote is shown, or else the newest.
IS_SHOWN = """
    NOT EXISTS (
        SELECT 1 FROM labels AS other WHERE other.sae = labels.sae AND other.latent = labels.latent
        AND (other.method = 'human', other.id) > (labels.method = 'human', labels.id)
    )
"""
SHOWN_FIRST = "labels.method = 'human' DESC, labels.id DESC"  # the same, among a feature's labels
SHOWN_TEXT = f"""
    coalesce((
        SELECT text FROM labels WHERE labels.sae = kept.sae AND labels.latent = kept.latent
        ORDER BY {SHOWN_FIRST} LIMIT 1
    ), '')
"""  # of the feature of each row of a table that is called `kept` in the question
# Of the scores of a label by one scorer and author, all but the newest are history.
IS_NEWEST = """
    NOT EXISTS (
        SELECT 1 FROM scores AS newer WHERE newer.label = scores.label AND newer.id > scores.id
        AND newer.scorer = scores.scorer AND newer.author = scores.author
    )
"""
# How the labels that are shown score: a row a scorer, and one of no name for the best of all.
# Files keep it as a table; another meaning needs a script that fills that anew.
STANDING = f"""
    SELECT sae, latent, scorer, max(value) AS value
    FROM labels JOIN scores ON scores.label = labels.id
    WHERE value IS NOT NULL AND {IS_SHOWN} AND {IS_NEWEST}
    GROUP BY sae, latent, scorer
    UNION ALL
    SELECT sae, latent, '' AS scorer, max(value) AS value
    FROM labels JOIN scores ON scores.label = labels.id
    WHERE value IS NOT NULL AND {IS_SHOWN} AND {IS_NEWEST}
    GROUP BY sae, latent
"""
# Each script takes a file from one version to the next; a script that was released stays as it is.
MIGRATIONS = (
    """
    CREATE TABLE labels (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        sae TEXT NOT NULL, latent INTEGER NOT NULL, text TEXT NOT NULL,
        author TEXT NOT NULL, method TEXT NOT NULL, created TEXT NOT NULL,
        made_from TEXT NOT NULL
    );
    CREATE INDEX labels_by_feature ON labels (sae, latent, id);
    CREATE TABLE scores (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        label INTEGER NOT NULL REFERENCES labels (id),
        scorer TEXT NOT NULL, value REAL, baseline REAL,
        n INTEGER NOT NULL, n_failed INTEGER NOT NULL, author TEXT NOT NULL, details TEXT NOT NULL
    );
    CREATE INDEX scores_by_label ON scores (label, id);
    CREATE TABLE bookmarks (
        sae TEXT NOT NULL, latent INTEGER NOT NULL, created TEXT NOT NULL,
        PRIMARY KEY (sae, latent)
    );
    CREATE TABLE edits (
        key TEXT PRIMARY KEY, name TEXT NOT NULL, edits TEXT NOT NULL, created TEXT NOT NULL
    );
    CREATE VIRTUAL TABLE words USING fts5 (
        text, content = 'labels', content_rowid = 'id',
        tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3'
    );
    CREATE TRIGGER words_of_labels AFTER INSERT ON labels BEGIN
        INSERT INTO words (rowid, text) VALUES (new.id, new.text);
    END;
    """,
    """
    CREATE TABLE meanings (
        label INTEGER NOT NULL REFERENCES labels (id), model TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (label, model)
    ) WITHOUT ROWID;
    """,
    f"""
    CREATE VIEW standing_now AS {STANDING};
    CREATE TABLE standing (
        sae TEXT NOT NULL, latent INTEGER NOT NULL, scorer TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (sae, latent, scorer)
    ) WITHOUT ROWID;
    CREATE INDEX standing_by_value ON standing (sae, scorer, value);
    INSERT INTO standing SELECT * FROM standing_now;
    """,
    """
    CREATE TABLE listed (
        id INTEGER PRIMARY KEY, list TEXT NOT NULL, sae TEXT NOT NULL, latent INTEGER NOT NULL,
        remark TEXT NOT NULL, created TEXT NOT NULL, UNIQUE (list, sae, latent)
    );
    CREATE INDEX listed_by_list ON listed (list, id);
    CREATE INDEX listed_by_feature ON listed (sae, latent, id);
    CREATE TABLE comments (
        id INTEGER PRIMARY KEY AUTOINCREMENT, sae TEXT NOT NULL, latent INTEGER NOT NULL,
        text TEXT NOT NULL, author TEXT NOT NULL, created TEXT NOT NULL
    );
    CREATE INDEX comments_by_feature ON comments (sae, latent, id);
    """,
)
# What files of earlier versions are read through, each until the version that has it as a table.
_KEPT = "SELECT 0 AS id, '' AS sae, 0 AS latent, '' AS created"
EARLIER = (
    (3, "standing", STANDING),
    (4, "listed", f"{_KEPT}, '' AS list, '' AS remark WHERE 0"),
    (4, "comments", f"{_KEPT}, '' AS text, '' AS author WHERE 0"),
)
