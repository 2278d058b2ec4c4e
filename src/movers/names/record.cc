#include "movers/names/record.h"

#include <fmt/format.h>

#include <system_error>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::dns {

namespace fs = std::filesystem;

namespace {

// File names of a fixed length, for names whose labels may hold any byte.
std::string file_part(const std::string& name) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

fs::path file_for(const Context& context, std::string_view what, const std::string& name, Type type) {
  return context.state / fmt::format("{}-{}-{}.json", what, file_part(name), to_string(type));
}

// What is stored there by this move.
Result<std::optional<Json>> load(const Context& context, const fs::path& path) {
  std::error_code gone;
  if (!fs::exists(path, gone)) return std::nullopt;
  auto value = parse_json(TRY(read_file(path)));
  if (!value) return with_context(std::move(value).error(), path.string());
  if (get_string_or(*value, "move", "") != context.task.move) return std::nullopt;
  return *value;
}

Result<> save(const Context& context, const fs::path& path, const Json& value) {
  CHECK_OK(make_directories(context.state));
  return write_file_durably(path, value.dump(1));
}

std::int64_t boot_ms() {
  return std::chrono::duration_cast<Millis>(boot_now()).count();
}

}  // namespace

Result<std::optional<Found>> load_found(const Context& context, const std::string& name, Type type) {
  const auto stored = TRY(load(context, file_for(context, "found", name, type)));
  if (!stored) return std::nullopt;
  return Found{TRY(get_string(*stored, "value")), TRY(get_int(*stored, "ttl"))};
}

Result<> save_found(const Context& context, const std::string& name, Type type, const Found& found) {
  return save(context, file_for(context, "found", name, type),
              {{"move", context.task.move}, {"name", name}, {"value", found.value}, {"ttl", found.ttl}});
}

Result<> forget_found(const Context& context, const std::string& name, Type type) {
  return remove_file_durably(file_for(context, "found", name, type));
}

Result<> start_clock(const Context& context, const Record& record, const std::string& value) {
  return save(context, file_for(context, "clock", record.name, record.type),
              {{"move", context.task.move},
               {"name", record.name},
               {"value", value},
               {"boot_id", boot_id()},
               {"boot_ms", boot_ms()},
               {"wall_ms", wall_now_ms()}});
}

Result<std::optional<std::int64_t>> clock_elapsed_ms(const Context& context, const Record& record,
                                                     const std::string& value) {
  const auto stored = TRY(load(context, file_for(context, "clock", record.name, record.type)));
  if (!stored || get_string_or(*stored, "value", "") != value) return std::nullopt;
  const bool same_boot = TRY(get_string(*stored, "boot_id")) == boot_id();
  const auto elapsed = same_boot ? boot_ms() - TRY(get_int(*stored, "boot_ms"))
                                 : wall_now_ms() - TRY(get_int(*stored, "wall_ms"));
  return std::max<std::int64_t>(0, elapsed);
}

Result<> stop_clock(const Context& context, const Record& record) {
  return remove_file_durably(file_for(context, "clock", record.name, record.type));
}

}  // namespace midstream::dns
