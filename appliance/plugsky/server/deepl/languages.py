"""The languages that texts may be translated from and to, by the codes of DeepL's API (ISO 639-1, or with a region)."""

from collections.abc import Iterable
from typing import Final

SOURCES: Final = {
    "AR": "Arabic", "BG": "Bulgarian", "CS": "Czech", "DA": "Danish", "DE": "German", "EL": "Greek", "EN": "English",
    "ES": "Spanish", "ET": "Estonian", "FI": "Finnish", "FR": "French", "HE": "Hebrew", "HI": "Hindi",
    "HU": "Hungarian", "ID": "Indonesian", "IT": "Italian", "JA": "Japanese", "KO": "Korean", "LT": "Lithuanian",
    "LV": "Latvian", "MS": "Malay", "NB": "Norwegian", "NL": "Dutch", "PL": "Polish", "PT": "Portuguese",
    "RO": "Romanian", "RU": "Russian", "SK": "Slovak", "SL": "Slovenian", "SV": "Swedish", "TA": "Tamil", "TH": "Thai",
    "TL": "Tagalog", "TR": "Turkish", "UK": "Ukrainian", "UR": "Urdu", "VI": "Vietnamese", "ZH": "Chinese",
}  # fmt: skip
_VARIANTS: Final = {
    "EN-GB": "English (British)", "EN-US": "English (American)", "ES-419": "Spanish (Latin American)",
    "PT-BR": "Portuguese (Brazilian)", "PT-PT": "Portuguese (European)", "ZH-HANS": "Chinese (simplified)",
    "ZH-HANT": "Chinese (traditional)",
}  # fmt: skip
TARGETS: Final = SOURCES | _VARIANTS


def base(code: str) -> str:
    """A language without its region, in upper case."""
    return code.upper().partition("-")[0]


def sources(spoken: Iterable[str]) -> dict[str, str]:
    """The source languages of a model that speaks ``spoken``, by the codes of its catalogue entry; or all."""
    known = {base(code) for code in spoken}
    return {code: name for code, name in SOURCES.items() if not known or code in known}


def targets(spoken: Iterable[str]) -> dict[str, str]:
    """Likewise the target languages. A language with regions is there with them and without."""
    known = {base(code) for code in spoken}
    return {code: name for code, name in sorted(TARGETS.items()) if not known or base(code) in known}
