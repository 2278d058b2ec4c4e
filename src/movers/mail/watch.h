// Which mail user's store changes, told by the kernel: one fanotify mark on the file system that holds the homes.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream::mail {

class Watch {
 public:
  // Watches the file systems of these homes (those that exist, else of their nearest existing parent).
  static Result<Watch> open(const std::vector<std::filesystem::path>& homes);

  // Waits for events and calls `changed` with the path of each directory in which a message, a subscription, a script
  // or a mailbox changed. Locks, indexes and temporary files are left out: reading a mailbox touches those. Returns
  // within half a second. `lost` is called where the kernel had to drop events.
  Result<> wait(const std::function<void(const std::string& directory)>& changed, const std::function<void()>& lost,
                const std::stop_token& stop);

 private:
  Fd events_;
  std::vector<Fd> mounts_;  // one directory of each watched file system, for open_by_handle_at
};

// Whether a change of `name` in `directory` can be one of the mail itself.
bool is_mail_change(std::string_view directory, std::string_view name);

}  // namespace midstream::mail
