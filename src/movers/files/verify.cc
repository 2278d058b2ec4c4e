#include "movers/files/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "base/text.h"

namespace midstream::files {

namespace {

constexpr std::size_t kListing = 512;

Result<> walk_directory(const Root& root, const Except& except, const std::string& path, const std::stop_token& stop,
                        const std::function<Result<>(Listed)>& each) {
  if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while comparing trees");
  bool gone = false;
  auto place = root.directory(path, &gone);
  if (!place) return gone ? Result<>() : Result<>(std::unexpected(place.error()));
  auto names = TRY(list_names(place->fd()));
  std::ranges::sort(names);
  for (const auto& name : names) {
    if (path == "." && name == kHidden) continue;
    const auto child = join_path(path, name);
    if (!is_safe_path(child)) return refused(fmt::format("{} cannot be compared: its path is too long", printable(child)));
    const auto stat = TRY(look_at(place->fd(), name.c_str()));
    if (!stat || stat->type == EntryType::none || stat->dev != root.stat().dev) continue;
    const bool directory = stat->type == EntryType::directory;
    if (except.matches(child, directory)) continue;
    auto loaded = load(Place{place->directory, name}, *stat, 0, true, stop);
    if (!loaded && loaded.error().kind == ErrorKind::retry) continue;  // replaced: compared again
    if (!loaded) return std::unexpected(loaded.error());
    CHECK_OK(each({child, loaded->version}));
    if (directory) CHECK_OK(walk_directory(root, except, child, stop, each));
  }
  return {};
}

// The other side's entries, as they come.
class Incoming {
 public:
  Incoming(Stream& stream, Deadline deadline, const std::stop_token& stop) : stream_(stream), deadline_(deadline), stop_(stop) {}
  // nullptr at the end.
  Result<const Listed*> peek() {
    while (ready_.empty() && !last_) {
      const auto body = TRY(read_frame(stream_, deadline_, stop_, kMaxFileFrame));
      std::vector<Listed> entries;
      last_ = TRY(decode_listing(body, entries));
      for (auto& entry : entries) ready_.push_back(std::move(entry));
    }
    return ready_.empty() ? nullptr : &ready_.front();
  }
  void pop() { ready_.pop_front(); }

 private:
  Stream& stream_;
  Deadline deadline_;
  std::stop_token stop_;
  std::deque<Listed> ready_;
  bool last_ = false;
};

}  // namespace

bool walks_before(std::string_view a, std::string_view b) {
  if (a == b) return false;
  if (a == ".") return true;
  if (b == ".") return false;
  const auto weight = [](char c) { return c == '/' ? 0 : static_cast<int>(static_cast<unsigned char>(c)) + 1; };
  return std::ranges::lexicographical_compare(a, b, std::less<>(), weight, weight);
}

Result<> walk_tree(const Root& root, const Except& except, const std::stop_token& stop,
                   const std::function<Result<>(Listed)>& each) {
  CHECK_OK(each({".", TRY(version_at(root, ".", stop))}));
  return walk_directory(root, except, ".", stop, each);
}

Result<> send_listing(const Root& root, const Except& except, Stream& stream, const std::stop_token& stop) {
  std::vector<Listed> entries;
  const auto ship = [&](bool last) -> Result<> {
    CHECK_OK(write_frame(stream, encode_listing(entries, last), Deadline::in(std::chrono::hours(1)), stop));
    entries.clear();
    return {};
  };
  CHECK_OK(walk_tree(root, except, stop, [&](Listed entry) -> Result<> {
    entries.push_back(std::move(entry));
    return entries.size() < kListing ? Result<>() : ship(false);
  }));
  return ship(true);
}

Result<Comparison> compare_listing(const Root& root, const Except& except, Stream& stream, Deadline deadline,
                                   const std::stop_token& stop) {
  Comparison out;
  Incoming theirs(stream, deadline, stop);
  const auto differs = [&](const std::string& path) -> Result<> {
    if (out.different.size() >= kMaxDifferent) return refused(fmt::format("more than {} entries differ", kMaxDifferent));
    out.different.push_back(path);
    return {};
  };
  CHECK_OK(walk_tree(root, except, stop, [&](const Listed& ours) -> Result<> {
    ++out.entries;
    const auto* other = TRY(theirs.peek());
    while (other && walks_before(other->path, ours.path)) {
      CHECK_OK(differs(other->path));
      theirs.pop();
      other = TRY(theirs.peek());
    }
    if (!other || other->path != ours.path) return differs(ours.path);
    const bool equal = other->version == ours.version;
    theirs.pop();
    return equal ? Result<>() : differs(ours.path);
  }));
  while (const auto* other = TRY(theirs.peek())) {
    CHECK_OK(differs(other->path));
    theirs.pop();
  }
  return out;
}

Result<Version> version_at(const Root& root, const std::string& path, const std::stop_token& stop) {
  for (int attempt = 0;; ++attempt) {
    bool gone = false;
    auto place = root.place(path, &gone);
    if (!place) return gone ? Result<Version>(Version{}) : Result<Version>(std::unexpected(place.error()));
    const auto stat = TRY(look_at(place->fd(), place->leaf.c_str()));
    if (!stat || stat->type == EntryType::none) return Version{};
    auto loaded = load(*place, *stat, 0, true, stop);
    if (loaded) return loaded->version;
    if (loaded.error().kind != ErrorKind::retry || attempt >= 8) return std::unexpected(loaded.error());
  }
}

}  // namespace midstream::files
