// A host's disk: an ext4 file system in a sparse file, seen through a loop device that the kernel frees by itself
// with the last user (LO_FLAGS_AUTOCLEAR).
#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream::lab {

// Makes a new, empty file system of `mib` MiB in `image`, which is replaced.
Result<> make_image(const std::filesystem::path& image, int mib);

// Copies an image: by reflink where the file system can, else without its holes.
Result<> copy_image(const std::filesystem::path& from, const std::filesystem::path& to);

// Repairs what a power cut left: the journal is replayed. Refused if more than that is wrong.
Result<> check_image(const std::filesystem::path& image);

// Attaches `image` to a free loop device and mounts it at `directory` in the caller's mount namespace. The device
// goes away with the mount.
Result<> mount_image(const std::filesystem::path& image, const std::filesystem::path& directory);

// The power cut itself: from here on nothing of the file system whose root is `root` reaches the disk, the journal
// included.
Result<> cut_power(int root);

// Waits until no loop device is backed by `prefix` or a file below it: then no mount of it is left either.
Result<> await_images_free(const std::filesystem::path& prefix, Deadline deadline);

}  // namespace midstream::lab
