"""What the server shows, as its documents tell it: the collection, the run's opinions, and who may see which of them."""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from wsi.viewing.collection import Collection
from wsi.viewing.documents import cohort_document, slide_document
from wsi.viewing.review import Json, Review
