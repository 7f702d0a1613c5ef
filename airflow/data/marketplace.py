"""The invented marketplace: its days, services and professionals' histories."""

from datetime import date, timedelta

FIRST_DAY = date(2019, 11, 25)
DAYS = 105
CLOSED = (
    date(2019, 12, 25),
    date(2019, 12, 26),
    date(2020, 1, 1),
    date(2020, 2, 11),
    date(2020, 2, 12),
    date(2020, 2, 13),
)
RENAMED_ON = date(2020, 1, 26)

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
HOUR_WEIGHTS = (6, 3, 2, 1, 4, 9, 17, 30, 42, 48, 50, 49, 45, 47, 46, 50, 44, 43, 52, 55, 47, 34, 21, 11)
WEEKDAY_WEIGHTS = (13, 12, 11, 11, 9, 7, 8)

CREATED, ABLE, UNABLE, PROPOSED = range(4)
EVENT_TYPES = ("created_account", "became_able_to_propose", "became_unable_to_propose", "proposed")

# Share per thousand, and a professional's history: C(reated), A(ble), U(nable); before each the time since the previous
# event: a blank for days, "~" for at most four hours, "=" for the same second.
LIVES = (
    (405, " C"),
    (300, " C A"),
    (60, " C~A"),
    (50, " A C"),
    (50, " C A U"),
    (22, " C A U A"),
    (18, " C U A"),
    (10, " C U"),
    (15, " C A A"),
    (8, " C A U U A"),
    (20, " C A~U~A"),
    (10, " C~U~A~U A"),
    (10, " C A=U"),
    (6, " C A=U=A"),
    (6, " C U=A"),
    (10, " A"),
)

# Popularity, id, name in Dutch, name in English.
SERVICES = (
    (90, 11, "gevel-voegen", "repoint-brickwork"),
    (84, 3, "kozijnen-schilderen", "paint-window-frames"),
    (70, 27, "pvc-vloer-leggen", "lay-vinyl-floor"),
    (61, 8, "dakpannen-herleggen", "relay-roof-tiles"),
    (52, 40, "wc-renoveren", "refurbish-toilet"),
    (47, 19, "oprit-bestraten", "pave-driveway"),
    (43, 5, "spouwmuur-isoleren", "insulate-cavity-wall"),
    (38, 62, "zonnepanelen-monteren", "mount-solar-panels"),
    (33, 71, "meterkast-vernieuwen", "renew-fuse-box"),
    (30, 14, "wanden-glad-pleisteren", "skim-coat-walls"),
    (27, 88, "laadpaal-aansluiten", "connect-charging-point"),
    (25, 33, "warmtepomp-plaatsen", "fit-heat-pump"),
    (22, 102, "haag-knippen", "clip-hedge"),
    (20, 57, "vlonder-bouwen", "build-garden-deck"),
    (18, 96, "zolder-aftimmeren", "board-out-attic"),
    (17, 45, "keukenblad-vervangen", "replace-worktop"),
    (15, 120, "inboedel-opslaan", "store-household-goods"),
    (14, 23, "dubbel-glas-zetten", "fit-double-glazing"),
    (13, 77, "schoorsteen-vegen", "sweep-chimney"),
    (12, 134, "parket-oliën", "oil-parquet"),
    (11, 66, "douchewand-plaatsen", "fit-shower-screen"),
    (10, 109, "foto's-inlijsten", "frame-photos"),
    (9, 51, "garagedeur-repareren", "mend-garage-door"),
    (8, 145, "rookmelders-ophangen", "hang-smoke-alarms"),
    (7, 37, "tuinmuur-metselen", "lay-garden-wall"),
    (6, 152, "ramen-lappen", "wash-windows"),
    (6, 83, "trap-bekleden", "carpet-stairs"),
    (5, 168, "kruipruimte-ontvochtigen", "dry-out-crawl-space"),
    (4, 127, "jaloezieën-inkorten", "shorten-blinds"),
    (4, 174, "vijver-aanleggen", "dig-garden-pond"),
    (3, 91, "asbest-inventariseren", "survey-asbestos"),
    (3, 181, "bijenkast-timmeren", "make-beehive"),
    (2, 199, "piano-takelen", "hoist-piano"),
    (1, 204, "windvaan-vergulden", "gild-weathervane"),
)
NEW_NAMES = {40: ("toilet-moderniseren", "modernise-toilet"), 152: ("glasbewassing", "window-cleaning")}
HIGHEST_FEE_CENTS = 1_000


def open_days() -> list[date]:
    """Return the days of the log that have events."""
    days = (FIRST_DAY + timedelta(days=number) for number in range(DAYS))
    return [day for day in days if day not in CLOSED]
