#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/text.h"
#include "movers/files/check.h"
#include "sys/file.h"

namespace midstream::files {

Result<> note_origin(const Tree& tree) {
  const auto file = tree.state / "origin.json";
  std::error_code ignored;
  if (std::filesystem::exists(file, ignored)) return {};
  Json origin = {{"root", "absent"}};
  auto made = tree.path;
  while (made.has_parent_path() && !std::filesystem::exists(made.parent_path(), ignored)) made = made.parent_path();
  origin["made"] = made.string();
  if (auto root = Root::open(tree.path)) {
    const auto names = TRY(list_names(root->fd()));
    const bool empty = names.empty() || (names.size() == 1 && names[0] == kHidden);
    const auto& stat = root->stat();
    origin = {{"root", empty ? "empty" : "present"}, {"mode", stat.mode}, {"uid", stat.uid}, {"gid", stat.gid}, {"mtime_ns", stat.mtime_ns}};
  } else if (root.error().kind != ErrorKind::retry) {
    return std::unexpected(root.error());
  }
  CHECK_OK(make_directories(tree.state));
  return write_file_durably(file, origin.dump());
}

namespace {

// Removes one entry if it is as it was applied.
bool take_back(const Root& root, const std::string& path, const Entry& entry) {
  bool gone = false;
  const auto place = root.place(path, &gone);
  if (!place) return gone;
  const auto stat = look_at(place->fd(), place->leaf.c_str());
  if (!stat) return false;
  if (!*stat) return true;
  if ((*stat)->type != entry.version.type) return false;
  const bool directory = entry.version.type == EntryType::directory;
  if (!directory && !entry.matches(**stat)) return false;
  return ::unlinkat(place->fd(), place->leaf.c_str(), directory ? AT_REMOVEDIR : 0) == 0;
}

Result<> take_back_root(Tree& tree, const Json& origin) {
  std::error_code ignored;
  if (get_string_or(origin, "root", "") == "absent") {
    tree.root.reset();
    const std::filesystem::path made(get_string_or(origin, "made", tree.path.string()));
    for (auto at = tree.path; ::rmdir(at.c_str()) == 0 && at != made; at = at.parent_path()) {
    }
    return {};
  }
  Version before;
  before.type = EntryType::directory;
  before.mode = static_cast<std::uint16_t>(get_int_or(origin, "mode", 0755));
  before.uid = static_cast<std::uint32_t>(get_int_or(origin, "uid", 0));
  before.gid = static_cast<std::uint32_t>(get_int_or(origin, "gid", 0));
  before.mtime_ns = get_int_or(origin, "mtime_ns", 0);
  return set_metadata(tree.root->fd(), before, TRY(read_xattrs(tree.root->fd())));
}

}  // namespace

Result<Json> remove_copied(Tree& tree) {
  std::error_code ignored;
  const auto file = tree.state / "origin.json";
  if (!std::filesystem::exists(file, ignored)) return Json{{"removed", 0}, {"kept", 0}};
  const auto origin = TRY(parse_json(TRY(read_file(file))));
  const bool ours = get_string_or(origin, "root", "present") != "present";
  std::uint64_t removed = 0, kept = 0;
  if (!std::filesystem::exists(tree.path, ignored)) return Json{{"removed", 0}, {"kept", 0}};
  CHECK_OK(open_tree(tree, false));
  const std::lock_guard lock(tree.mutex);
  const auto& nodes = tree.index->nodes();
  const auto all = nodes.below(".");
  for (auto it = all.rbegin(); ours && it != all.rend(); ++it) {
    const auto path = nodes.path(*it);
    if (path == ".") continue;
    take_back(*tree.root, path, nodes.entry(*it)) ? ++removed : ++kept;
  }
  CHECK_OK(tree.root->remove_hidden());
  if (ours) CHECK_OK(take_back_root(tree, origin));
  tree.root.reset();
  return Json{{"removed", removed}, {"kept", kept}};
}

}  // namespace midstream::files
