#include "tests/sim/disk.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>

namespace midstream::test {

namespace {

constexpr std::size_t kSector = 512;
constexpr std::size_t kTruncated = std::string::npos;

Disk* current = nullptr;  // SQLite's own interface has no place for it

struct Open {  // what SQLite allocates for each file
  sqlite3_file base;
  Disk::Handle* handle;
};

Disk::Handle& handle_of(sqlite3_file* file) { return *reinterpret_cast<Open*>(file)->handle; }

void put(std::string& bytes, std::size_t at, std::string_view what) {
  if (bytes.size() < at + what.size()) bytes.resize(at + what.size());
  bytes.replace(at, what.size(), what);
}

int close_file(sqlite3_file* file) {
  delete reinterpret_cast<Open*>(file)->handle;
  return SQLITE_OK;
}

int read_file(sqlite3_file* file, void* into, int size, sqlite3_int64 at) {
  auto& handle = handle_of(file);
  if (handle.disk->fails(handle)) return SQLITE_IOERR_READ;
  const auto& bytes = handle.file->now;
  const auto from = std::min<std::size_t>(static_cast<std::size_t>(at), bytes.size());
  const auto count = std::min<std::size_t>(static_cast<std::size_t>(size), bytes.size() - from);
  std::memcpy(into, bytes.data() + from, count);
  if (count == static_cast<std::size_t>(size)) return SQLITE_OK;
  std::memset(static_cast<char*>(into) + count, 0, static_cast<std::size_t>(size) - count);
  return SQLITE_IOERR_SHORT_READ;
}

int write_file(sqlite3_file* file, const void* from, int size, sqlite3_int64 at) {
  auto& handle = handle_of(file);
  if (handle.disk->fails(handle)) return SQLITE_IOERR_WRITE;
  if (handle.disk->full()) return SQLITE_FULL;
  const std::string bytes(static_cast<const char*>(from), static_cast<std::size_t>(size));
  put(handle.file->now, static_cast<std::size_t>(at), bytes);
  handle.file->unsynced.emplace_back(static_cast<std::size_t>(at), bytes);
  return SQLITE_OK;
}

int truncate_file(sqlite3_file* file, sqlite3_int64 size) {
  auto& handle = handle_of(file);
  if (handle.disk->fails(handle)) return SQLITE_IOERR_TRUNCATE;
  handle.file->now.resize(static_cast<std::size_t>(size));
  handle.file->unsynced.emplace_back(kTruncated, std::to_string(size));
  return SQLITE_OK;
}

int sync_file(sqlite3_file* file, int) {
  auto& handle = handle_of(file);
  if (handle.disk->fails(handle)) return SQLITE_IOERR_FSYNC;
  if (handle.disk->ignores_syncs()) return SQLITE_OK;
  // Writes are fewer than what is there: copying the whole file each time would be most of a simulation's work.
  for (const auto& [at, bytes] : handle.file->unsynced) {
    if (at == kTruncated) {
      handle.file->durable.resize(std::stoul(bytes));
    } else {
      put(handle.file->durable, at, bytes);
    }
  }
  handle.file->unsynced.clear();
  return SQLITE_OK;
}

int size_of_file(sqlite3_file* file, sqlite3_int64* size) {
  *size = static_cast<sqlite3_int64>(handle_of(file).file->now.size());
  return SQLITE_OK;
}

// Nobody is ever in the middle of anything while another one acts: there is nothing to lock.
int no_lock(sqlite3_file* file, int) {
  auto& handle = handle_of(file);
  return handle.disk->fails(handle) ? SQLITE_IOERR_LOCK : SQLITE_OK;
}
int reserved(sqlite3_file*, int* answer) { return *answer = 0, SQLITE_OK; }
int no_control(sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; }
int sector_size(sqlite3_file*) { return static_cast<int>(kSector); }
int characteristics(sqlite3_file*) { return 0; }

int map_shared(sqlite3_file* file, int page, int size, int extend, void volatile** at) {
  auto& handle = handle_of(file);
  if (handle.disk->fails(handle)) return SQLITE_IOERR_SHMMAP;
  auto& of = *handle.file;
  if (!handle.shares) {
    if (of.sharing++ == 0) of.shared.clear();
    handle.shares = true;
  }
  auto& slot = of.shared[page];
  if (!slot && extend != 0) slot = std::make_unique<std::string>(static_cast<std::size_t>(size), '\0');
  *at = slot ? slot->data() : nullptr;
  return SQLITE_OK;
}
int lock_shared(sqlite3_file* file, int, int, int) { return no_lock(file, 0); }
void barrier(sqlite3_file*) {}
int unmap_shared(sqlite3_file* file, int) {
  auto& handle = handle_of(file);
  if (std::exchange(handle.shares, false)) --handle.file->sharing;
  return SQLITE_OK;
}

const sqlite3_io_methods kMethods{2,          close_file,   read_file,       write_file, truncate_file,
                                  sync_file,  size_of_file, no_lock,         no_lock,    reserved,
                                  no_control, sector_size,  characteristics, map_shared, lock_shared,
                                  barrier,    unmap_shared, nullptr,         nullptr};

int open_file(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out_flags) {
  const std::string path = name == nullptr ? "temporary" : name;
  auto* open = reinterpret_cast<Open*>(file);
  open->base.pMethods = nullptr;
  if (!current->exists(path) && (flags & SQLITE_OPEN_CREATE) == 0) return SQLITE_CANTOPEN;
  if (!current->exists(path) && current->full()) return SQLITE_FULL;
  open->handle = new Disk::Handle{current, current->process(), path, current->file(path)};
  open->base.pMethods = &kMethods;
  if (out_flags != nullptr) *out_flags = flags;
  return SQLITE_OK;
}

int delete_file(sqlite3_vfs*, const char* name, int) {
  if (!current->exists(name)) return SQLITE_IOERR_DELETE_NOENT;
  current->remove(name);
  return SQLITE_OK;
}

int access_file(sqlite3_vfs*, const char* name, int, int* answer) {
  *answer = current->exists(name) ? 1 : 0;
  return SQLITE_OK;
}

int full_path(sqlite3_vfs*, const char* name, int size, char* out) {
  sqlite3_snprintf(size, out, "%s", name);
  return SQLITE_OK;
}

int randomness(sqlite3_vfs*, int size, char* out) {
  for (int i = 0; i < size; ++i) out[i] = static_cast<char>(current->random().next());
  return size;
}

int no_sleep(sqlite3_vfs*, int us) { return us; }
int no_time(sqlite3_vfs*, double* now) { return *now = 0, SQLITE_OK; }
int no_error(sqlite3_vfs*, int, char*) { return 0; }

// Once for the process; in SQLite's list of file systems from then on, as its default.
void install() {
  static sqlite3_vfs vfs{1,           sizeof(Open), 512,     nullptr, "simulated", nullptr, open_file,  delete_file,
                         access_file, full_path,    nullptr, nullptr, nullptr,     nullptr, randomness, no_sleep,
                         no_time,     no_error,     nullptr, nullptr, nullptr,     nullptr};
  static const int installed = sqlite3_vfs_register(&vfs, 1);
  (void)installed;
}

}  // namespace

Disk::Disk(std::uint64_t seed) : random_(seed * 0x9e3779b97f4a7c15 + 1) { install(); }

Disk::~Disk() {
  if (current == this) current = nullptr;
}

int Disk::begin_process() {
  enter();
  return ++process_;
}

void Disk::enter() const { current = const_cast<Disk*>(this); }

void Disk::kill(int process) {
  enter();
  dead_[process] = true;
}

bool Disk::fails(const Handle& handle) {
  if (dead_.contains(handle.process)) return true;
  if (left_ < 0) return false;
  return left_ == 0 || left_-- == 0;
}

bool Disk::mend() {
  const bool had = left_ == 0;
  left_ = -1;
  return had;
}

std::shared_ptr<Disk::File> Disk::file(const std::string& name) {
  auto& slot = files_[name];
  if (!slot) slot = std::make_shared<File>();
  return slot;
}

void Disk::power_cut() {
  for (auto& [name, file] : files_) {
    auto left = file->durable;
    for (const auto& [at, bytes] : file->unsynced) {
      const auto dice = random_.between(1, 100);
      if (dice <= 40) continue;
      if (at == kTruncated) {
        left.resize(std::stoul(bytes));
      } else if (dice <= 70) {
        put(left, at, bytes);
      } else {  // some of its sectors
        for (std::size_t from = 0; from < bytes.size(); from += kSector) {
          if (random_.chance(50)) put(left, at + from, std::string_view(bytes).substr(from, kSector));
        }
      }
    }
    file->now = file->durable = std::move(left);
    file->unsynced.clear();
    file->shared.clear();
    file->sharing = 0;
  }
}

}  // namespace midstream::test
