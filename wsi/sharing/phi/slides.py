"""What slides say of themselves that may tell whose they are: read from the files that a bundle was made of.

Of TIFF: values of ``key = value`` texts, XML and private tags whose name speaks of an id, a person, a date or a device.
Of CZI: the same of its XML. Of VSI: all texts. Of DICOM: names, ids, dates, descriptions, instance UIDs. Of every
slide: its file's name and its path.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi.cohort.fingerprint import slide_files
from wsi.cohort.manifest import slide_name
from wsi.errors import says_damage
from wsi.files.regular import first_bytes

_TELLS = re.compile(
    r"(?:^|[^a-z])id|id(?:$|[^a-z])|id$|s/n|serial|name|user|operator|physician|patient|birth|date|time|bar ?code"
    r"|accession|title|label|file|path|host|computer|slide|block|case|number|scanner|artist|institution|address|comment"
    r"|description|created|updated",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\s*([^=|;\n\r]{1,80}?)\s*=\s*([^|\n\r]*)")
_DICOM_KINDS = frozenset({"PN", "DA", "DT", "LO", "SH", "ST", "LT", "UT", "UI", "UC", "AE", "UR"})
_PUBLIC = re.compile(
    r"(?:Code(?:Meaning|Value)|CodingScheme|SOPClassUID|TransferSyntaxUID|MediaStorageSOPClassUID|ImplementationClass|"
    r"ImplementationVersion|Manufacturer|SoftwareVersions|Modality|DimensionDescription|ICCProfile|ColorSpace|"
    r"ContextUID|MappingResource|UniversalEntityIDType|OpticalPathDescription|DerivationDescription)"
)
_STANDARD_UID = re.compile(r"1\.2\.840\.10008\.")
_UNIT = re.compile(r"10\^-?\d+\w\^\d")
_MOST_VALUES = 5000


def values_of_slides(paths: list[Path]) -> list[tuple[str, str, bool]]:
    """Return where from, value, and whether it names a person, of what slides say of themselves."""
    found: list[tuple[str, str, bool]] = []
    for number, path in enumerate(paths, start=1):
        told = f"slide {number} of --slides"
        found += [(f"the name of {told}", own, False) for own in {path.name, slide_name(path.name)}]
        found.append((f"the path of {told}", str(path.absolute()), False))
        for _, file in slide_files(path):
            found += [(f"{key} of {told}", value, name) for key, value, name in _of_file(file)][:_MOST_VALUES]
    return found


def _of_file(path: Path) -> Iterator[tuple[str, str, bool]]:
    head = first_bytes(path, 132)
    try:
        if head[128:132] == b"DICM":
            yield from _of_dicom(path)
        elif head[:2] in (b"II", b"MM"):
            yield from _of_tiff(path)
            if path.suffix.lower() == ".vsi":
                yield from _of_vsi(path)
        elif head.startswith(b"ZISRAWFILE"):
            yield from _of_czi(path)
    except Exception as error:  # parsers raise nearly anything on unusual files; name and path are known all the same
        if not says_damage(error):
            raise


def _of_vsi(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Give all texts: no list says which of its tags name a person."""
    from wsi.readers.vsi.tags import read_fields

    for field in read_fields(path):
        if len(field.text) > 2 and not _UNIT.match(field.text):
            yield f"VSI tag {field.tag}", field.text, False


def _of_czi(path: Path) -> Iterator[tuple[str, str, bool]]:
    from wsi.readers.czi.layout import metadata_text

    yield from _of_xml(metadata_text(path))


def _of_dicom(path: Path) -> Iterator[tuple[str, str, bool]]:
    import pydicom

    yield from _of_dataset(pydicom.dcmread(path, stop_before_pixels=True))


def _of_dataset(dataset: Any) -> Iterator[tuple[str, str, bool]]:
    for element in dataset:
        keyword = element.keyword or str(element.tag)
        if element.VR == "SQ":
            for item in element.value or ():
                yield from _of_dataset(item)
        elif element.VR in _DICOM_KINDS and not _PUBLIC.search(keyword):
            several = element.value if element.VM > 1 else [element.value]
            for value in several or ():
                text = str(value or "").strip()
                if text and not _STANDARD_UID.match(text):
                    yield keyword, text, element.VR == "PN"


def _of_tiff(path: Path) -> Iterator[tuple[str, str, bool]]:
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as tiff:
        for page in tiff.pages:
            for tag in page.aspage().tags:
                value = tag.value.decode("latin-1") if isinstance(tag.value, bytes) else tag.value
                if isinstance(value, str):
                    yield from _of_text(tag.name, value)


def _of_text(name: str, text: str) -> Iterator[tuple[str, str, bool]]:
    if _TELLS.search(name) and name != "ImageDescription" and len(text) < 500:
        yield name, text.strip("\0 "), _is_person(name)
    if text.lstrip().startswith("<"):
        yield from _of_xml(text)
    for key, value in _PAIR.findall(text):
        if _TELLS.search(key) and value.strip():
            yield key.strip(), value.strip("\0 "), _is_person(key)


def _of_xml(text: str) -> Iterator[tuple[str, str, bool]]:
    try:
        root = ET.fromstring(text.strip("\0 \r\n"))
    except ET.ParseError:
        return
    for element in root.iter():
        kind = element.get("Name") or element.tag.rpartition("}")[2]
        for key, value in [(kind, element.text or ""), *element.attrib.items()]:
            if _TELLS.search(key) and value.strip():
                yield key, value.strip(), _is_person(key)


def _is_person(key: str) -> bool:
    return bool(re.search(r"patient.?name|physician|operator|user$|artist", key, re.IGNORECASE))
