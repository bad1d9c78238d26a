"""Where bytes lie: directories, folders, buckets."""
