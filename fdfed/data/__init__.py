"""A site's folder of images and masks, checked, split by patient and served in batches."""

from fdfed.data.cases import PARTS, Case, Finding, FolderReport, Listing, Part
from fdfed.data.folder import check_site_folder
from fdfed.data.folds import fold_of_patients, held_out_patients
from fdfed.data.loading import image_size, load_image
from fdfed.data.phantoms import KNOWN_SITES, write_phantoms
from fdfed.data.pictures import read_image, read_labels, read_mask
from fdfed.data.planned import open_planned, write_planned_phantoms
from fdfed.data.site import SiteData, SplitCounts, open_site, pool_sites
from fdfed.data.splits import split_cases
from fdfed.data.survey import (
    ImageFacts,
    Likeness,
    SiteSurvey,
    likenesses,
    site_folders,
    survey_site,
)
from fdfed.data.unusable import UnusablePicture

__all__ = [
    "KNOWN_SITES",
    "PARTS",
    "Case",
    "Finding",
    "FolderReport",
    "ImageFacts",
    "Likeness",
    "Listing",
    "Part",
    "SiteData",
    "SiteSurvey",
    "SplitCounts",
    "UnusablePicture",
    "check_site_folder",
    "fold_of_patients",
    "held_out_patients",
    "image_size",
    "likenesses",
    "load_image",
    "open_planned",
    "open_site",
    "pool_sites",
    "read_image",
    "read_labels",
    "read_mask",
    "site_folders",
    "split_cases",
    "survey_site",
    "write_phantoms",
    "write_planned_phantoms",
]
