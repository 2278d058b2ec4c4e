#include "lab/image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/text.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

constexpr unsigned long kExt4Shutdown = 0x8004587d;  // EXT4_IOC_SHUTDOWN
constexpr std::uint32_t kNoLogFlush = 2;             // EXT4_GOING_FLAGS_NOLOGFLUSH
constexpr int kLoopMajor = 7;

Result<> run_tool(const std::vector<std::string>& argv, int highest_good_code) {
  const auto exit = TRY(run_child(argv, "", Deadline::in(Millis(60'000))));
  if (exit.code > highest_good_code) {
    return refused(fmt::format("{} ended with {}: {}{}", argv[0], exit.code, trim(exit.out), trim(exit.err)));
  }
  return {};
}

// Copies the data between holes only.
Result<> copy_sparse(int from, int to, off_t size) {
  for (off_t at = 0; at < size;) {
    const off_t data = ::lseek(from, at, SEEK_DATA);
    if (data < 0) break;  // ENXIO: holes up to the end
    const off_t end = ::lseek(from, data, SEEK_HOLE);
    off_t in = data;
    off_t out = data;
    while (in < end) {
      const ssize_t n = ::copy_file_range(from, &in, to, &out, static_cast<std::size_t>(end - in), 0);
      if (n <= 0) return errno_failure("cannot copy an image", errno);
    }
    at = end;
  }
  return {};
}

// The device node of loop `number`; made in /dev where it is missing (a chroot without devtmpfs).
Result<std::string> loop_node(int number) {
  const auto path = fmt::format("/dev/loop{}", number);
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && S_ISBLK(info.st_mode)) return path;
  if (::mknod(path.c_str(), S_IFBLK | 0600, ::makedev(kLoopMajor, static_cast<unsigned>(number))) != 0 &&
      errno != EEXIST) {
    return errno_failure(fmt::format("cannot make {}", path), errno);
  }
  return path;
}

struct Loop {
  std::string path;
  Fd fd;  // holds the device until it is mounted
};

Result<Loop> attach(const fs::path& image) {
  Fd file(::open(image.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return errno_failure(fmt::format("cannot open {}", image.string()), errno);
  Fd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) {
    auto error = errno_failure("cannot open /dev/loop-control", errno);
    error.error().todo = "the lab needs loop devices: run it where the kernel's loop module is loaded";
    return error;
  }
  for (int attempt = 0; attempt < 200; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return errno_failure("no free loop device", errno);
    auto path = TRY(loop_node(number));
    Fd device(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!device) continue;
    loop_config config{};
    config.fd = static_cast<std::uint32_t>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    std::strncpy(reinterpret_cast<char*>(config.info.lo_file_name), image.c_str(), LO_NAME_SIZE - 1);
    if (::ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return Loop{path, std::move(device)};
    if (errno != EBUSY) return errno_failure(fmt::format("cannot attach {} to {}", image.string(), path), errno);
    // another lab, or another host of this one, was quicker: take the next
  }
  return retry("no loop device could be had: others keep taking them");
}

}  // namespace

Result<> make_image(const fs::path& image, int mib) {
  Fd file(::open(image.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file) return errno_failure(fmt::format("cannot create {}", image.string()), errno);
  if (::ftruncate(file.get(), static_cast<off_t>(mib) << 20) != 0) return errno_failure("cannot size an image", errno);
  file.reset();
  return run_tool({"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
                   image.string()},
                  0);
}

Result<> copy_image(const fs::path& from, const fs::path& to) {
  Fd in(::open(from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) return errno_failure(fmt::format("cannot open {}", from.string()), errno);
  Fd out(::open(to.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!out) return errno_failure(fmt::format("cannot create {}", to.string()), errno);
  if (::ioctl(out.get(), FICLONE, in.get()) == 0) return {};
  struct stat info {};
  if (::fstat(in.get(), &info) != 0 || ::ftruncate(out.get(), info.st_size) != 0) {
    return errno_failure(fmt::format("cannot size {}", to.string()), errno);
  }
  return copy_sparse(in.get(), out.get(), info.st_size);
}

Result<> check_image(const fs::path& image) { return run_tool({"e2fsck", "-p", image.string()}, 1); }

Result<> mount_image(const fs::path& image, const fs::path& directory) {
  const auto loop = TRY(attach(image));
  if (::mount(loop.path.c_str(), directory.c_str(), "ext4", 0, "") != 0) {
    return errno_failure(fmt::format("cannot mount {} at {}", image.string(), directory.string()), errno);
  }
  return {};
}

Result<> cut_power(int root) {
  std::uint32_t flags = kNoLogFlush;
  if (::ioctl(root, kExt4Shutdown, &flags) != 0) return errno_failure("cannot shut a file system down", errno);
  return {};
}

namespace {

bool any_loop_backed_by(const std::string& prefix) {
  std::error_code failed;
  for (const auto& device : fs::directory_iterator("/sys/block", failed)) {
    if (!device.path().filename().string().starts_with("loop")) continue;
    const auto file = read_file(device.path() / "loop/backing_file", 4096);
    if (!file) continue;
    const auto name = trim(*file);
    if (name == prefix || name.starts_with(prefix + "/") || name.starts_with(prefix + " (deleted)")) return true;
  }
  return false;
}

}  // namespace

Result<> await_images_free(const fs::path& prefix, Deadline deadline) {
  std::error_code failed;
  const auto resolved = fs::weakly_canonical(prefix, failed);
  while (any_loop_backed_by(resolved.string())) {
    if (deadline.expired()) return retry(fmt::format("a loop device still holds {}", prefix.string()));
    pause_for(Millis(5), {});
  }
  return {};
}

}  // namespace midstream::lab
