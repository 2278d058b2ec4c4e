#include "movers/postgres/seed_note.h"

#include <fmt/format.h>

#include "movers/postgres/stream.h"
#include "sys/file.h"

namespace midstream::postgres {

std::filesystem::path SeedNote::path(const Work& work) { return work.context.state / (work.plan.move + ".seed"); }

Result<std::optional<SeedNote>> SeedNote::load(const Work& work) {
  std::error_code error;
  const bool there = std::filesystem::exists(path(work), error);
  if (error) return errno_failure("cannot look at the note of the seed", error.value());
  if (!there) return std::optional<SeedNote>();
  const auto json = TRY(parse_json(TRY(read_file(path(work)))));
  SeedNote note;
  note.stage = TRY(get_string(json, "stage"));
  note.round = static_cast<int>(get_int_or(json, "round", 1));
  note.why = get_string_or(json, "why", "");
  note.lost = get_string_or(json, "lost", "");
  note.point = get_string_or(json, "point", "");
  note.starts = static_cast<int>(get_int_or(json, "starts", 0));
  note.major = static_cast<int>(get_int_or(json, "major", 0));
  note.data = TRY(get_string(json, "data"));
  note.unit = server_unit_from_json(json.value("unit", Json::object()));
  return std::optional(std::move(note));
}

Result<> SeedNote::save(const Work& work) const {
  const Json json{{"stage", stage},   {"round", round},         {"why", why},   {"lost", lost},          {"point", point},
                  {"starts", starts}, {"data", data.native()}, {"major", major}, {"unit", to_json(unit)}};
  return write_file_durably(path(work), json.dump(1), 0600);
}

Result<> SeedNote::remove(const Work& work) { return remove_file_durably(path(work)); }

SeedPlace SeedNote::place(const Work& work) const { return seed_place(work.options.os_user, data, our_directory(work, data), work.plan.move); }

}  // namespace midstream::postgres
