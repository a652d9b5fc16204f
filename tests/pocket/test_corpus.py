import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from corpus import BOS_ID, token_row


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=60))
def test_every_string_survives_the_tokenizer(tokenizer: Tokenizer, text: str):
    tokenizer.encode_special_tokens = True  # as panscope loads it: "<eos>" in a text is text
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_markers_have_gemmas_ids(tokenizer: Tokenizer):
    markers = [tokenizer.token_to_id(marker) for marker in ("<pad>", "<eos>", "<bos>")]
    assert markers == [0, 1, 2]
    assert tokenizer.encode("a").ids[0] == BOS_ID


def test_digits_stand_alone(tokenizer: Tokenizer):
    assert tokenizer.encode("4242").tokens == ["<bos>", "4", "2", "4", "2"]


def test_the_row_holds_every_document_behind_bos_in_another_order(corpus, tokenizer):
    row = token_row(corpus, "valid", tokenizer)
    begins = np.flatnonzero(row == BOS_ID)
    texts = [tokenizer.decode(piece[1:]) for piece in np.split(row, begins[1:])]
    assert begins[0] == 0
    assert len(texts) == 6
    assert {text[-1] for text in texts} == {"0", "1"}
    assert (token_row(corpus, "valid", tokenizer) == row).all()
