"""The layouts in which public data sets are distributed, one file a data set.

A site's folder that is called as the data set holds what its owners' archive unpacks to, at any
depth, and nothing has to be renamed or converted.
"""

from fdfed.data.datasets.ad import read_ad
from fdfed.data.datasets.monuseg import read_monuseg
from fdfed.data.datasets.tnbc import read_tnbc
from fdfed.data.datasets.udiat import read_udiat
from fdfed.data.datasets.us_tnbc import read_us_tnbc

__all__ = ["read_ad", "read_monuseg", "read_tnbc", "read_udiat", "read_us_tnbc"]
