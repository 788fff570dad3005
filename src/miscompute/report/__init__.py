"""Reports: charts and tables of what experiments found. They draw numbers and compute none."""

from ._campaign import rates_by_table as rates_by_table
from ._campaign import rates_table as rates_table
from ._campaign import record_table as record_table
from ._curves import curves_chart as curves_chart
from ._curves import recorded_chart as recorded_chart
from ._curves import write_chart as write_chart
from ._damage import damage_chart as damage_chart
from ._drawing import lowering_chart as lowering_chart
from ._drawing import write_drawing as write_drawing
from ._page import write_report as write_report
from ._rates import rates_by_chart as rates_by_chart
from ._rates import rates_chart as rates_chart
from ._tables import advice_table as advice_table
from ._tables import agreement_table as agreement_table
from ._tables import composition_table as composition_table
from ._tables import damage_table as damage_table
from ._tables import fit_table as fit_table
from ._tables import lowering_table as lowering_table
from ._tables import outcome_table as outcome_table
from ._tables import vulnerability_table as vulnerability_table
from ._tables import work_line as work_line
from ._tables import worst_table as worst_table
from ._taxonomy import taxonomy_chart as taxonomy_chart
from ._vulnerability import advice_chart as advice_chart
from ._vulnerability import bits_chart as bits_chart
from ._vulnerability import worst_chart as worst_chart
