"""How byte-level BPE writes bytes: each as one printable character."""


def _byte_of_character() -> dict[str, int]:
    """Latin-1's printable characters stand for themselves; the others come from U+0100 on.

    Source: Radford et al. 2019, GPT-2, whose files all byte-level tokenizers follow.
    """
    printable = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


BYTE_OF_CHARACTER = _byte_of_character()
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


def piece_bytes(piece: str) -> bytes:
    """Return the bytes that a byte-level piece stands for.

    A piece with a character that writes no byte stands for its own UTF-8.
    """
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in piece)
    except KeyError:
        return piece.encode("utf-8")
