"""Large sets of images: listings of folders, decoded caches, augmentation and buckets of aspect ratios."""
