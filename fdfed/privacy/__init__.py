"""What hides a site's contribution in a sum, or bounds what can be learnt from it. Pure: keys and
arrays in, arrays out; no network, no Flower.

Secure aggregation is `fixed_point`, `contribution`, `pairwise_masks` and `masking_keys`.
"""
